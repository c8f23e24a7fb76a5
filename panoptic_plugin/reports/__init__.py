"""Pictures and pages about datasets and runs, made to be looked at."""
