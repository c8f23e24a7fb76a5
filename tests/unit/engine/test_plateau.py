"""The learning-rate schedule that goes by the evaluations, and the early end of a training."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.cli import train
from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.hooks import EvaluationHook
from panoptic_plugin.engine.optim import build_gradient_clipper, build_lr_scheduler, build_optimizer
from panoptic_plugin.engine.plateau import PlateauHook, WarmupPlateau
from panoptic_plugin.engine.step_hooks import LRScheduler
from panoptic_plugin.engine.train_step import TrainStep
from panoptic_plugin.errors import ConfigError

PQ = "panoptic_seg/PQ"
BASE, LOW, LOWEST = 1.3e-3, 1.3e-4, 1e-4


def adapted_recipe(**plateau):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.LR_SCHEDULER_NAME = "ADAM", BASE, "WarmupPlateau"
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.WARMUP_ITERS = 1 / 500, 499
    cfg.TEST.EVAL_PERIOD, cfg.DATASETS.TEST = 2, ("somewhere",)
    for key, value in plateau.items():
        cfg.SOLVER.PLATEAU[key] = value
    return cfg


def make_schedule(cfg=None, model: nn.Module | None = None) -> WarmupPlateau:
    cfg = cfg or adapted_recipe()
    schedule = build_lr_scheduler(cfg, build_optimizer(cfg, model or nn.Linear(2, 2)))
    assert isinstance(schedule, WarmupPlateau)
    return schedule


def warm_schedule(**plateau) -> WarmupPlateau:
    cfg = adapted_recipe(**plateau)
    cfg.SOLVER.WARMUP_ITERS = 0
    return make_schedule(cfg)


def rate(schedule: WarmupPlateau) -> float:
    return schedule.optimizer.param_groups[0]["lr"]


def step(schedule: WarmupPlateau) -> float:
    """One iteration; returns its learning rate."""
    used = rate(schedule)
    schedule.optimizer.step()
    schedule.step()
    return used


def judged(schedule: WarmupPlateau, values) -> list[float]:
    """The rate after each evaluation, with iterations between them."""
    found = []
    for value in values:
        step(schedule)
        schedule.judge(value, schedule.last_epoch - 1)
        found.append(rate(schedule))
        step(schedule)
        assert rate(schedule) == found[-1]
    return found


def test_warms_up_by_a_500th_of_the_rate_in_each_iteration_and_stays_there():
    schedule = make_schedule()
    found = [step(schedule) for _ in range(502)]
    assert found[:500] == pytest.approx([BASE * (k + 1) / 500 for k in range(500)], rel=0, abs=1e-18)
    assert found[500:] == [BASE, BASE]


def test_drops_at_the_4th_evaluation_without_improvement_to_three_rates_in_all():
    schedule = warm_schedule(EARLY_STOP=0)
    assert judged(schedule, [40.0, 40.0, 39.0, 38.0]) == [BASE] * 4
    assert judged(schedule, [40.0]) == pytest.approx([LOW], rel=1e-12)  # the 4th after the best
    assert judged(schedule, [30.0] * 3) == pytest.approx([LOW] * 3, rel=1e-12)
    assert judged(schedule, [30.0] * 9) == pytest.approx([LOWEST] * 9, rel=1e-12)
    assert judged(schedule, [90.0] + [10.0] * 9) == pytest.approx([LOWEST] * 10, rel=1e-12)


def test_an_improvement_starts_the_count_anew():
    schedule = warm_schedule()
    assert set(judged(schedule, [40, 39, 39, 39, 41, 39, 39, 39, 42])) == {BASE}
    assert schedule.since_best == 0


def test_lower_can_be_better():
    assert set(judged(warm_schedule(MODE="min"), [4.0, 3.0, 2.0, 1.0, 0.5, 0.4])) == {BASE}
    assert judged(warm_schedule(MODE="min"), [1.0, 2.0, 3.0, 4.0, 5.0])[-1] == pytest.approx(LOW)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_evaluation_without_a_figure_does_not_count(value):
    schedule = warm_schedule()
    assert set(judged(schedule, [40.0, value, 39.0, value, value, 39.0, value, 39.0, value])) == {BASE}
    assert schedule.since_best == 3
    assert judged(schedule, [39.0]) == pytest.approx([LOW])


def test_an_evaluation_in_the_warm_up_does_not_count():
    schedule = make_schedule()
    for iteration in range(6):
        step(schedule)
        before = rate(schedule)
        schedule.judge(50.0, iteration)
        assert rate(schedule) == before
    assert schedule.since_best == 0
    while schedule.last_epoch < 499:
        step(schedule)
    assert judged(schedule, [10.0] * 5)[-1] == pytest.approx(LOW)


def test_each_group_keeps_its_share_of_the_rates():
    """Biases at twice the rate, and the backbone at a tenth, which is below MIN_LR from the start."""
    cfg = adapted_recipe(EARLY_STOP=0)
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.WARMUP_ITERS = 2.0, 0.05, 0
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    schedule = make_schedule(cfg, nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)}))
    shares = [group["lr"] / BASE for group in schedule.optimizer.param_groups]
    assert sorted(shares) == pytest.approx([0.05, 0.05, 1.0, 2.0])
    for count, expected in ((5, LOW), (4, LOWEST), (9, LOWEST)):
        judged(schedule, [1.0] * count)
        rates = [group["lr"] for group in schedule.optimizer.param_groups]
        assert rates == pytest.approx([share * expected for share in shares], rel=1e-9)


def test_a_schedule_that_is_resumed_goes_on_in_the_middle_of_a_plateau():
    values = [40.0, 39.0, 38.0, 37.0, 36.0, 35.0, 41.0, 40.0, 40.0, 40.0, 40.0, 40.0]
    through = warm_schedule(EARLY_STOP=0)
    expected = judged(through, values)
    for cut in range(1, len(values)):
        before, after = warm_schedule(EARLY_STOP=0), warm_schedule(EARLY_STOP=0)
        first = judged(before, values[:cut])
        after.load_state_dict(before.state_dict())
        assert first + judged(after, values[cut:]) == expected, cut
        assert after.state_dict() == through.state_dict()


def test_the_state_holds_the_position_and_the_config_the_rest():
    before = warm_schedule()
    judged(before, [40.0, 39.0, 39.0, 39.0, 39.0, 39.0])
    assert before.exhausted
    after = warm_schedule(EARLY_STOP=7, PATIENCE=0)
    after.load_state_dict(before.state_dict())
    assert not after.exhausted and rate(after) == pytest.approx(LOW)
    assert judged(after, [39.0]) == pytest.approx([LOWEST])


def test_another_figure_counts_from_the_start(caplog):
    before, after = warm_schedule(), warm_schedule(METRIC="sem_seg/mIoU")
    judged(before, [90.0] + [80.0] * 5)
    after.load_state_dict(before.state_dict())
    assert "went by panoptic_seg/PQ before and goes by sem_seg/mIoU now" in caplog.text
    assert not after.exhausted
    assert judged(after, [50.0, 51.0]) == pytest.approx([LOW, LOW])


def test_a_state_of_another_schedule_gives_the_iteration(caplog):
    schedule = make_schedule()
    schedule.load_state_dict({"base_lrs": [BASE, BASE], "last_epoch": 200})
    assert "another learning-rate schedule" in caplog.text
    step(schedule)
    assert rate(schedule) == pytest.approx(BASE * 202 / 500)


class Loop(TrainerBase):
    """A training whose evaluations give ``figures``, by iterations done."""

    def __init__(self, figures: dict, period: int, max_iter: int, **plateau):
        super().__init__()
        self.scheduler = warm_schedule(**plateau)
        self.optimizer, self.max_iter, self.rates = self.scheduler.optimizer, max_iter, {}
        self.evaluated: list[int] = []
        self._figures = figures
        evaluation = EvaluationHook(period, self._evaluate)
        self.register_hooks([LRScheduler(lambda: True), evaluation, PlateauHook(self.scheduler, evaluation, period)])

    def _evaluate(self):
        done = self.iter + 1 if self.iter < self.max_iter else self.max_iter
        self.evaluated.append(done)
        return {"panoptic_seg": {"PQ": self._figures.get(done)}, "sem_seg": {"mIoU": 1.0}}

    def run_step(self):
        self.rates[self.iter] = rate(self.scheduler)
        self.optimizer.step()

    def go(self):
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            while self.iter < self.max_iter:
                self.before_step()
                self.run_step()
                self.after_step()
                self.iter += 1
            self.after_train()
        return self


def test_the_hook_lowers_the_rate_after_the_evaluation_and_ends_all_after_more():
    figures = {done: 40.0 if done == 2 else 39.0 for done in range(30)}
    loop = Loop(figures, period=2, max_iter=30).go()
    assert loop.evaluated == [2, 4, 6, 8, 10, 12]  # and not once more at the end
    assert [loop.rates[k] for k in (0, 9)] == [BASE, BASE]
    assert loop.rates[10] == loop.rates[11] == pytest.approx(LOW)  # from the iteration after the 4th without
    assert loop.max_iter == 12 and max(loop.rates) == 11


def test_a_figure_of_an_earlier_evaluation_is_not_counted_twice(caplog):
    """The storage keeps the latest value of each name."""
    loop = Loop({2: 40.0, 4: 39.0, 6: math.nan, 8: None, 10: 39.0}, period=2, max_iter=11).go()
    assert loop.scheduler.since_best == 2
    assert "after iteration 5 has no (finite) figure panoptic_seg/PQ" in caplog.text
    assert "sem_seg/mIoU" in caplog.text


class Stop(HookBase):
    def __init__(self, after: int):
        self._after = after

    def after_step(self):
        if self.trainer.iter == self._after:
            raise InterruptedError


def resumed(first: Loop, start: int, **arguments) -> Loop:
    loop = Loop(first._figures, **arguments)
    loop.load_state_dict(first.state_dict())
    loop.start_iter = start
    return loop


def test_a_checkpoint_from_before_an_evaluation_has_it_made_again():
    """Checkpoints are written, and SIGTERM is heeded, before the evaluation of the same iteration."""
    figures = {done: float(90 - done) for done in range(30)}
    through = Loop(figures, period=2, max_iter=30).go()
    first = Loop(figures, period=2, max_iter=30)
    first.register_hooks([Stop(after=9)])
    first._hooks.insert(1, first._hooks.pop())
    with pytest.raises(InterruptedError):
        first.go()
    second = resumed(first, 10, period=2, max_iter=30).go()
    assert second.evaluated == [10, 12]
    assert first.rates | second.rates == through.rates
    assert second.scheduler.state_dict() == through.scheduler.state_dict()


def test_a_training_that_was_ended_does_not_go_on_unless_more_is_allowed():
    figures = {done: float(90 - done) for done in range(40)}
    first = Loop(figures, period=2, max_iter=30).go()
    second = resumed(first, first.max_iter, period=2, max_iter=30).go()
    assert not second.rates and second.max_iter == 12
    third = resumed(first, first.max_iter, period=2, max_iter=30, EARLY_STOP=7).go()
    assert min(third.rates) == 12 and third.max_iter == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("TEST.EVAL_PERIOD", 0), "TEST.EVAL_PERIOD is 0; set it to the iterations of an epoch"),
        (("DATASETS.TEST", ()), "DATASETS.TEST is empty"),
        (("SOLVER.PLATEAU.MODE", "maxx"), "SOLVER.PLATEAU.MODE is 'maxx'.*Did you mean 'max'"),
        (("SOLVER.PLATEAU.FACTOR", 1.0), "FACTOR is 1.0, expected a factor between 0 and 1"),
        (("SOLVER.PLATEAU.PATIENCE", -1), "PATIENCE is -1, expected 0 or more"),
        (("SOLVER.PLATEAU.EARLY_STOP", -1), "EARLY_STOP is -1"),
        (("SOLVER.PLATEAU.MIN_LR", math.nan), "MIN_LR is nan"),
        (("SOLVER.PLATEAU.MIN_LR", 0.01), "MIN_LR is 0.01, more than SOLVER.BASE_LR 0.0013"),
        (("SOLVER.PLATEAU.METRIC", ""), "METRIC is '', expected the name of a figure"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change, words):
    cfg = adapted_recipe()
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    cfg.merge_from_list(change)
    with pytest.raises(ConfigError, match=words):
        build_lr_scheduler(cfg, optimizer)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    build_lr_scheduler(cfg, optimizer)  # which does not read these keys


def test_the_command_line_refuses_it_before_anything_is_made(tmp_path, capsys):
    path = tmp_path / "plateau.yaml"
    path.write_text("SOLVER: {LR_SCHEDULER_NAME: WarmupPlateau}\nTEST: {EVAL_PERIOD: 0}\nVERSION: 2\n")
    words = ["--config-file", str(path), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    assert train.main(words) == 2
    assert "error: TEST.EVAL_PERIOD is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Weighed(nn.Module):
    """Its gradient is ``batch``."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": (torch.cat([self.first, self.second]) * batch).sum()}


@pytest.mark.parametrize("scale", [None, 2.0**13])
@pytest.mark.parametrize(("gradient", "expected"), [([3.0, 4.0, 12.0], [0.75, 1.0, 3.0]), ([1.0, 2.0, 2.0],) * 2])
def test_the_norm_over_all_weights_is_clipped_after_the_losses_scale_is_taken_out(scale, gradient, expected):
    """Norms 13 and 3, clipped to 3.25: were the scaled gradients clipped, the step would be thousands of times less."""
    cfg = get_cfg()
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", 3.25
    model = Weighed()
    trainer = TrainStep(
        model,
        [torch.tensor(gradient)],
        torch.optim.SGD(model.parameters(), lr=1.0),
        autocast_dtype=None if scale is None else torch.float16,
        clip_gradients=build_gradient_clipper(cfg),
    )
    if scale is not None:
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with EventStorage(0):
        trainer.run_step()
    step_made = -torch.cat([model.first, model.second]).detach()
    assert step_made.tolist() == pytest.approx(expected, rel=1e-5)
