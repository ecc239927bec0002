"""The training loop: it learns, repeats itself, stops where it should and leaves the best state."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from polyopt.training import fit

X = torch.linspace(-1.0, 1.0, 24)[:, None]
Y = 2.0 * X - 0.5


def line():
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def run(model, **options):
    return fit(model, X, Y, nn.functional.mse_loss, **({"epochs": 5, "lr": 0.05, "progress": False} | options))


def state(model):
    return [p.detach().clone() for p in model.parameters()]


def test_full_batches_are_plain_gradient_descent():
    model, mine = line(), line()
    history = run(model, optimizer=torch.optim.SGD, epochs=3)
    losses = []
    for _ in range(3):
        value = nn.functional.mse_loss(mine(X), Y)
        losses.append(value.item())
        for p, g in zip(mine.parameters(), torch.autograd.grad(value, list(mine.parameters())), strict=True):
            p.data -= 0.05 * g
    assert history.loss == pytest.approx(losses, rel=1e-5)
    for a, b in zip(state(model), state(mine), strict=True):
        torch.testing.assert_close(a, b)
    assert (history.best, history.stopped, len(history.validation)) == (2, "epochs", 0)


def test_every_point_is_seen_once_an_epoch():
    seen = []

    def loss(y, target):
        seen.append(target)
        return nn.functional.mse_loss(y, target)

    fit(line(), X, Y, loss, epochs=2, batch_size=7, progress=False)
    assert [len(batch) for batch in seen] == [7, 7, 7, 3] * 2
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert torch.equal(first.sort(0).values, Y)
    assert torch.equal(second.sort(0).values, Y)
    assert not torch.equal(first, second)


def test_the_mean_loss_weighs_points_and_not_batches():
    history = run(line(), batch_size=23, epochs=1, lr=0.0)
    assert history.loss[0] == pytest.approx(nn.functional.mse_loss(line()(X), Y).item(), rel=1e-5)


def test_a_seed_is_repeated_and_torchs_own_left_alone():
    models = [line() for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        run(model, batch_size=5, seed=seed)
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, state(models[0]), state(models[1])))
    assert not all(map(torch.equal, state(models[0]), state(models[2])))


def test_arrays_come_in_any_precision_and_classes_stay_whole():
    model = nn.Linear(2, 3)
    x, labels = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 3
    history = fit(model, x, labels, nn.functional.cross_entropy, epochs=2, progress=False)
    assert np.isfinite(history.loss).all()
    assert model.weight.dtype == torch.float32


def test_the_best_validated_state_remains_and_patience_ends():
    model, known = line(), []

    def note(epoch, model):
        known.append(state(model))

    # trained to 2 x - 1/2 and validated on the way there: the loss falls and rises again
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.bias.fill_(0.0)
    history = run(model, epochs=200, validation=(X, 1.0 * X - 0.25), patience=4, callback=note)
    best = int(np.argmin(history.validation))
    assert history.stopped == "patience"
    assert 0 < best == history.best
    assert len(history.loss) == len(history.validation) == best + 5
    assert all(map(torch.equal, state(model), known[best]))
    assert not all(map(torch.equal, state(model), known[-1]))


def test_validation_sees_what_the_callback_has_done():
    def solve(epoch, model):
        with torch.no_grad():
            model.weight.fill_(2.0)
            model.bias.fill_(-0.5)

    assert run(line(), epochs=1, callback=solve, validation=(X, Y)).validation == [0.0]


def test_a_penalty_is_part_of_what_is_minimised():
    free, held = line(), line()
    run(free, epochs=300)
    history = run(held, epochs=300, penalty=lambda model: 100.0 * (model.weight**2).sum())
    assert abs(free.weight.item() - 2.0) < 0.1
    assert abs(held.weight.item()) < 0.05
    assert history.loss[0] > 1.0


@pytest.mark.parametrize("validated", [False, True])
def test_ctrl_c_leaves_the_best_state_so_far(validated):
    model, known = line(), []

    def interrupt(epoch, model):
        known.append(state(model))
        if epoch == 3:
            raise KeyboardInterrupt

    history = run(model, epochs=100, callback=interrupt, validation=(X, Y) if validated else None)
    assert (history.stopped, history.best) == ("interrupted", 2)
    assert all(map(torch.equal, state(model), known[2]))


def test_the_time_limit_ends_it():
    history = run(line(), epochs=10**6, time_limit=0.05)
    assert history.stopped == "time limit"
    assert 0.05 <= history.seconds < 5


def test_modes_and_devices_are_as_before():
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()
    modes = []

    def loss(y, target):
        modes.append(model.training)
        return nn.functional.mse_loss(y, target)

    fit(model, X, Y, loss, epochs=2, progress=False)
    assert not model.training
    model.train()
    fit(model, X, Y, loss, epochs=2, validation=(X, Y), progress=False)
    assert modes == [True, True, True, False, True, False]
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


def test_the_optimizer_may_be_any_maker():
    model, plain = line(), line()
    run(model, optimizer=partial(torch.optim.SGD, momentum=0.9))
    run(plain, optimizer=torch.optim.SGD)
    assert not all(map(torch.equal, state(model), state(plain)))


def test_a_loss_that_is_not_finite_is_an_error_and_the_best_state_stays():
    model, known = line(), []

    def note(epoch, model):
        known.append(state(model))

    with pytest.raises(ValueError, match="in epoch 2 the losses are"):
        run(model, callback=note, penalty=lambda model: model.bias.sum() * (torch.nan if len(known) == 2 else 0.0))
    assert all(map(torch.equal, state(model), known[1]))
    assert not all(map(torch.equal, state(model), known[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patience": 3}, "give validation"),
        ({"patience": 0, "validation": (X, Y)}, "patience is 0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        run(line(), **change)


def test_inputs_and_targets_must_be_equally_many():
    with pytest.raises(ValueError, match="24 inputs and 23 targets"):
        fit(line(), X, Y[1:], nn.functional.mse_loss)
