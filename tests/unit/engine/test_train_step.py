"""One training iteration against Detectron2's, and what it does with numbers that are not finite."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.averaging import AveragedWeights
from panoptic_plugin.engine.non_finite import max_skipped_steps
from panoptic_plugin.engine.train_step import TrainStep, autocast_dtype, build_train_step
from panoptic_plugin.errors import ConfigError


class Regression(nn.Module):
    """Two losses of a linear layer; ``fault`` spoils a loss, ``bad_gradient`` only its gradient."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.seen_dtype = None

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        out = self.linear(x)
        self.seen_dtype = out.dtype
        losses = {"loss_a": out.float().square().mean(), "loss_b": out.float().abs().mean()}
        if any(sample.get("fault") for sample in batch):
            losses["loss_b"] = losses["loss_b"] * float("nan")
        if any(sample.get("bad_gradient") for sample in batch):
            losses["loss_b"] = losses["loss_b"] + (out.sum() * 0).square().sqrt()
        return losses


def batches(**last):
    generator = torch.Generator().manual_seed(3)
    found = [[{"x": torch.randn(4, generator=generator), "file_name": f"{i}_{j}.png"} for j in range(2)]
             for i in range(4)]  # fmt: skip
    found[-1][1].update(last)
    return found


def run(step, count=4):
    with EventStorage(0) as storage:
        for step.iter in range(count):
            storage.iter = step.iter
            step.run_step()
    return storage


def test_weights_equal_those_of_detectron2s_simple_trainer():
    model = Regression()
    reference = copy.deepcopy(model)
    ours = TrainStep(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    theirs = SimpleTrainer(reference, batches(), torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9))
    storage, expected = run(ours), run(theirs)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("total_loss", "loss_a", "loss_b"):
        assert [value for value, _ in storage.history(name).values()] == pytest.approx(
            [value for value, _ in expected.history(name).values()], rel=1e-6
        )
    assert storage.history("data_time").latest() >= 0


@pytest.mark.parametrize("fault", ["fault", "bad_gradient"])
def test_a_number_that_is_not_finite_stops_before_the_weights(fault):
    model = Regression()
    step = TrainStep(model, batches(**{fault: True}), torch.optim.SGD(model.parameters(), lr=0.1))
    run(step, 3)
    before = copy.deepcopy(model.state_dict())
    with EventStorage(3), pytest.raises(FloatingPointError, match="iteration=3") as raised:
        step.iter = 3
        step.run_step()
    text = str(raised.value)
    assert text.endswith("3_0.png, 3_1.png")
    assert ("Images with such a loss" if fault == "fault" else "All losses are finite; images of the iteration") in text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_bfloat16_runs_the_forward_pass_in_bfloat16():
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = "cpu", True, "bfloat16"
    model = Regression()
    step = build_train_step(cfg, model, batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    storage = run(step, 2)
    assert model.seen_dtype is torch.bfloat16
    assert model.linear.weight.dtype is torch.float32
    assert not step.grad_scaler.is_enabled()
    assert storage.history("total_loss").latest() > 0


def test_amp_settings_that_cannot_be_are_refused():
    cfg = get_cfg()
    assert autocast_dtype(cfg) is None
    cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE = True, "cpu"
    with pytest.raises(ConfigError, match="set SOLVER.AMP.DTYPE bfloat16"):
        autocast_dtype(cfg)
    cfg.MODEL.DEVICE = "cuda"
    assert autocast_dtype(cfg) is torch.float16
    cfg.SOLVER.AMP.DTYPE = "bfloat"
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        autocast_dtype(cfg)


def test_float16_scales_and_skips_a_step_that_overflows():
    model = Regression()
    step = TrainStep(
        model, batches(bad_gradient=True), torch.optim.SGD(model.parameters(), lr=0.1), autocast_dtype=torch.float16
    )
    run(step, 3)
    scale, before = step.grad_scaler.get_scale(), copy.deepcopy(model.state_dict())
    with EventStorage(3):
        step.run_step()
    assert step.grad_scaler.get_scale() == scale / 2
    assert torch.equal(model.linear.weight, before["linear.weight"])


def overflowing(scale: float, interval: int = 2000) -> TrainStep:
    """A step in float16 whose every gradient is infinite, on the CPU."""
    model = Regression()
    batch = batches(bad_gradient=True)[-1]
    step = TrainStep(model, [batch] * 60, torch.optim.SGD(model.parameters(), lr=0.1), autocast_dtype=torch.float16)
    step.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    return step


@pytest.mark.parametrize(
    ("scale", "factor", "iterations", "words"),
    [(4.0, 0.5, 3, "3 skipped steps in a row and with losses scaled by 0.5"), (4.0, 0.999, 50, "50 skipped steps")],
)
def test_float16_that_overflows_again_and_again_ends_the_training(scale, factor, iterations, words):
    step = overflowing(scale)
    step.grad_scaler.set_backoff_factor(factor)
    before = copy.deepcopy(step.model.state_dict())
    with EventStorage(0) as storage:
        for step.iter in range(iterations - 1):
            step.run_step()
            assert not step.stepped
        step.iter = iterations - 1
        with pytest.raises(FloatingPointError, match=words):
            step.run_step()
    assert storage.history("amp_skipped_steps").latest() == iterations - 1
    assert torch.equal(step.model.linear.weight, before["linear.weight"])


def test_the_state_of_float16_goes_on_where_it_was():
    step = overflowing(2.0**16)
    run(step, 3)
    other = overflowing(2.0**16)
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    assert other.grad_scaler.get_scale() == 2.0**13
    assert (other.overflows.total, other.overflows.in_a_row) == (3, 3)


class Normed(Regression):
    """With a batch norm, whose statistics each forward pass changes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, batch):
        return super().forward([{**sample, "x": x} for sample, x in zip(batch, self._normed(batch), strict=True)])

    def _normed(self, batch):
        return self.norm(torch.stack([sample["x"] for sample in batch]))


def skipping(data, limit=2, **arguments) -> TrainStep:
    torch.manual_seed(0)
    model = Normed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    averaged = AveragedWeights(model, decay=0.9)
    return TrainStep(model, data, optimizer, max_skipped=limit, averaged=averaged, **arguments)


def everything(step: TrainStep) -> list[torch.Tensor]:
    optimizer = [value for state in step.optimizer.state.values() for value in state.values()]
    return [*step.model.state_dict().values(), *step.averaged.averages.values(), *optimizer]


@pytest.mark.parametrize("fault", ["fault", "bad_gradient"])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_skipped_iteration_leaves_no_trace(fault, dtype, caplog):
    good, bad = batches(), batches(**{fault: True})
    data = [*good[:2], bad[-1], *good[2:]]
    step, straight = skipping(data, autocast_dtype=dtype), skipping(good, autocast_dtype=dtype)
    for one in (step, straight):
        one.grad_scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=dtype is not None)
    run(step, 2)
    with EventStorage(2) as storage:
        step.iter = 2
        step.run_step()
        assert not step.stepped
        for step.iter in range(3, 5):
            step.run_step()
            assert step.stepped
    run(straight, 4)
    overflow = dtype is not None and fault == "bad_gradient"  # which float16 has now and then, and counts by itself
    if not overflow:
        assert all(torch.equal(a, b) for a, b in zip(everything(step), everything(straight), strict=True))
        assert "iteration=2" in caplog.text and "3_1.png" in caplog.text
    assert (step.skipped.total, step.skipped.in_a_row) == (0 if overflow else 1, 0)
    assert storage.history("skipped_steps").latest() == step.skipped.total
    assert step.averaged.num_updates == 4
    assert all(math.isfinite(value) for value, _ in storage.history("total_loss").values())


def test_too_many_skipped_in_a_row_end_the_training_also_across_a_resume():
    bad = batches(fault=True)[-1]
    step = skipping([batches()[0], bad, bad, bad])
    run(step, 2)
    resumed = skipping([bad, bad])
    resumed.load_state_dict(copy.deepcopy(step.state_dict()))
    before = copy.deepcopy(resumed.model.state_dict())
    with EventStorage(2):
        resumed.run_step()
        with pytest.raises(FloatingPointError, match="2 iterations before it were skipped"):
            resumed.run_step()
    assert all(torch.equal(value, before[name]) for name, value in resumed.model.named_parameters())


@pytest.mark.parametrize(("policy", "limit", "words"), [("skpi", 3, "Did you mean 'skip'"), ("skip", 0, "1 or more")])
def test_a_policy_that_cannot_be_is_refused(policy, limit, words):
    cfg = get_cfg()
    cfg.SOLVER.ON_NON_FINITE, cfg.SOLVER.MAX_SKIPPED_STEPS = policy, limit
    with pytest.raises(ConfigError, match=words):
        max_skipped_steps(cfg)


def test_gradients_are_clipped():
    model = Regression()
    seen = []

    def clip(parameters):
        seen.append(len(parameters))
        nn.utils.clip_grad_value_(parameters, 0.0)

    before = copy.deepcopy(model.state_dict())
    run(TrainStep(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1), clip_gradients=clip), 1)
    assert seen == [2]
    assert torch.equal(model.linear.weight, before["linear.weight"])


def test_state_restores_optimizer_and_iteration():
    model = Regression()
    step = TrainStep(model, batches(), torch.optim.Adam(model.parameters(), lr=0.1))
    run(step, 2)
    other = TrainStep(model, batches(), torch.optim.Adam(model.parameters(), lr=0.1))
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    assert other.iter == 1
    restored, saved = (one.optimizer.state_dict()["state"][0] for one in (other, step))
    assert restored["step"] == 2 and torch.equal(restored["exp_avg"], saved["exp_avg"])


def big_batch(count=8):
    generator = torch.Generator().manual_seed(5)
    return [{"x": torch.randn(4, generator=generator), "file_name": f"{i}.png"} for i in range(count)]


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    whole, cut = Regression(), Regression()
    cut.load_state_dict(whole.state_dict())
    steps = [
        TrainStep(model, [big_batch(), big_batch()], torch.optim.Adam(model.parameters(), lr=0.1), accumulate_steps=n)
        for model, n in ((whole, 1), (cut, parts))
    ]
    expected, found = (run(step, 2) for step in steps)
    for a, b in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for name in ("total_loss", "loss_a", "grad_norm"):
        assert found.history(name).latest() == pytest.approx(expected.history(name).latest(), rel=1e-6)


def test_processes_exchange_gradients_in_the_last_part_only():
    class Wrapped(Regression):
        inside, seen = False, ()

        @contextmanager
        def no_sync(self):
            self.inside = True
            yield
            self.inside = False

        def forward(self, batch):
            self.seen = (*self.seen, self.inside)
            return super().forward(batch)

    model = Wrapped()
    run(TrainStep(model, [big_batch()], torch.optim.SGD(model.parameters(), lr=0.1), accumulate_steps=4), 1)
    assert model.seen == (True, True, True, False)


@pytest.mark.parametrize("value", [0, 3])
def test_a_number_of_parts_that_cannot_be_is_refused(value):
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS = 2, value
    model = Regression()
    with pytest.raises(ConfigError, match=f"SOLVER.ACCUMULATE_STEPS is {value}, expected 1 to 2"):
        build_train_step(cfg, model, batches(), torch.optim.SGD(model.parameters(), lr=0.1))


def fused(model, kind=torch.optim.SGD):
    return kind(model.parameters(), lr=0.1, fused=True)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("fault", ["fault", "bad_gradient"])
def test_losses_read_later_have_changed_no_weight_since_the_fault(kind, fault):
    model = Regression()
    data = [*batches(**{fault: True}), *batches()]
    step = TrainStep(model, data, fused(model, kind), read_when=lambda iteration: iteration == 6)
    run(step, 3)
    before = copy.deepcopy(model.state_dict())
    with EventStorage(3) as storage:
        for step.iter in range(3, 6):
            step.run_step()
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        step.iter = 6
        with pytest.raises(FloatingPointError, match="iteration=3"):
            step.run_step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert storage.history("total_loss").values()[-1][1] == 2


def test_losses_read_later_are_logged_under_their_own_iterations():
    logged = []
    for read_when in (lambda iteration: True, lambda iteration: iteration == 3):
        torch.manual_seed(0)
        model = Regression()
        logged.append(run(TrainStep(model, batches(), fused(model), read_when=read_when)).history("loss_a").values())
    assert logged[0] == logged[1]
    assert [iteration for _, iteration in logged[0]] == [0, 1, 2, 3]


def test_losses_are_read_before_anything_is_logged_saved_or_evaluated():
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 90, 35, 25
    cfg.SOLVER.LOSS_READ_PERIOD = 60
    model = Regression()
    step = build_train_step(cfg, model, batches(), fused(model))
    done = [iteration + 1 for iteration in range(90) if step.read_when(iteration)]
    assert done == [20, 25, 35, 40, 50, 60, 70, 75, 80, 90]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_optimizer_goes_on_from_a_state_in_another_memory_format(kind):
    def steps(model, optimizer, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 6, 6)).square().mean().backward()
            optimizer.step()

    def make(memory_format):
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        arguments = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return model, kind(model.parameters(), lr=0.1, fused=True, **arguments)

    first, optimizer = make(torch.contiguous_format)
    steps(first, optimizer, (1, 2))
    second, resumed = make(torch.channels_last)
    second.load_state_dict(first.state_dict())
    saved = {"iteration": 1, "optimizer": copy.deepcopy(optimizer.state_dict())}
    TrainStep(second, [], resumed).load_state_dict(saved)
    steps(first, optimizer, (3, 4))
    steps(second, resumed, (3, 4))
    torch.testing.assert_close(second.weight, first.weight)
