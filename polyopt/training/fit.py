"""A training loop: minibatches of data that lies on the device, early stopping, the best state at the end.

Each epoch visits all N points once, in batches B of a random order, and steps along the gradient of

    1/|B| sum over i in B of loss(model(x_i), y_i)  +  penalty(model).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass
class History:
    """What happened: the mean ``loss`` with penalty and the ``validation`` loss of each epoch, and why it stopped.

    ``best`` is the epoch whose state the model has, counted from 0, or -1 if it is the state it came with; ``stopped``
    is "epochs", "patience", "callback", "time limit" or "interrupted".
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = -1
    stopped: str = "epochs"
    seconds: float = 0.0


def fit(
    model: nn.Module,
    inputs,
    targets,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    device="auto",
    seed: int = 0,
    validation: tuple | None = None,
    patience: int | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    callback: Callable[[int, nn.Module], object] | None = None,
    time_limit: float | None = None,
    progress: bool = True,
) -> History:
    """Train the model in place to ``loss(model(inputs), targets)``, a mean over the batch, and say how it went.

    ``inputs`` and ``targets`` are arrays or tensors, floating-point ones taken to the model's precision; both lie on
    the ``device`` as a whole ("auto" is the GPU if there is one). The model is moved there and back. Without a
    ``batch_size`` a batch has all points. ``optimizer(parameters, lr=lr)`` makes the optimizer. ``seed`` is that of the
    batches' order; torch's own, which dropout draws on, is left alone.

    ``callback(epoch, model)`` is called after each epoch, before its validation; if it returns True, training stops
    there. ``validation`` is a pair of further inputs and targets: the state with the least loss on it is the one that
    remains, and training stops after ``patience`` epochs without a better one. Without it the last epoch's state
    remains. The same holds where the ``time_limit`` in seconds or Ctrl-C ends it. Raises ValueError where a loss is not
    finite; that state stays too.

    >>> x = torch.linspace(-1.0, 1.0, 32)[:, None]
    >>> model = nn.Linear(1, 1)
    >>> history = fit(model, x, 3.0 * x + 1.0, nn.functional.mse_loss, epochs=200, lr=0.1, progress=False)
    >>> history.loss[-1] < 1e-6, round(model.weight.item(), 2), round(model.bias.item(), 2)
    (True, 3.0, 1.0)
    """
    begin = time.perf_counter()
    _check(len(inputs), len(targets), epochs, batch_size, validation, patience)
    first = next(model.parameters())
    home, training = first.device, model.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    data = _on(device, first.dtype, inputs, targets)
    held_out = None if validation is None else _on(device, first.dtype, *validation)
    order = torch.Generator().manual_seed(seed)
    history, state = History(), copy.deepcopy(model.state_dict())
    model.to(device)
    steps = optimizer(model.parameters(), lr=lr)
    try:
        for epoch in (bar := tqdm(range(epochs), disable=not progress, desc=f"training on {device}", leave=False)):
            model.train()
            history.loss.append(_epoch(model, data, loss, penalty, steps, batch_size, order))
            done = callback is not None and callback(epoch, model) is True
            shown = {"loss": history.loss[-1]}
            if held_out is not None:
                history.validation.append(_loss(model, held_out, loss))
                shown["validation"] = history.validation[-1]
            bar.set_postfix(shown)
            if not all(map(math.isfinite, shown.values())):
                raise ValueError(f"fit: in epoch {epoch} the losses are {shown}; lower lr={lr}, or look at the data")
            if held_out is None or history.best < 0 or history.validation[-1] < history.validation[history.best]:
                history.best, state = epoch, copy.deepcopy(model.state_dict())
            late = time_limit is not None and time.perf_counter() - begin >= time_limit
            bored = patience is not None and epoch - history.best >= patience
            if done or bored or late:
                history.stopped = "callback" if done else "patience" if bored else "time limit"
                break
    except KeyboardInterrupt:
        history.stopped = "interrupted"
    finally:
        model.load_state_dict(state)
        model.to(home).train(training)
    history.seconds = time.perf_counter() - begin
    return history


def _epoch(model, data, loss, penalty, steps, batch_size, order) -> float:
    """One pass over the data; the mean of what was minimised."""
    inputs, targets = data
    count, total = len(inputs), 0.0
    for batch in torch.randperm(count, generator=order).to(inputs.device).split(batch_size or count):
        steps.zero_grad()
        value = loss(model(inputs[batch]), targets[batch])
        if penalty is not None:
            value = value + penalty(model)
        value.backward()
        steps.step()
        total = total + value.detach() * (len(batch) / count)
    return float(total)


@torch.no_grad()
def _loss(model, data, loss) -> float:
    model.eval()
    return float(loss(model(data[0]), data[1]))


def _on(device, dtype, *arrays) -> list[Tensor]:
    """Tensors on the device; floating-point ones in this precision."""
    tensors = [torch.as_tensor(array) for array in arrays]
    return [x.to(device, dtype if x.is_floating_point() else None) for x in tensors]


def _check(points: int, targets: int, epochs: int, batch_size, validation, patience) -> None:
    if points != targets or points == 0:
        raise ValueError(f"fit: there are {points} inputs and {targets} targets; there must be equally many, and some")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"fit: {name} is {value}, but must be at least 1")
    if patience is not None and validation is None:
        raise ValueError(
            "fit: patience counts epochs without a better validation loss; give validation=(inputs, targets)"
        )
