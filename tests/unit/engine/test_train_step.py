"""One training iteration against Detectron2's, and what it does with numbers that are not finite."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.config import get_cfg
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
    assert ("3_1.png" in str(raised.value)) == (fault == "fault")
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
