"""How much can a digit classifier be fooled? The exact worst case in an eps-ball, by mixed-integer programming.

A 64-64-64-10 ReLU classifier is trained on scikit-learn's handwritten digits. For a test image of class t and each
other class r, the largest margin ``net(x)_r - net(x)_t`` over ``|x - image| <= eps``, x in [0, 1]^64 is found: if it
is negative for every r the image is verified, if it is positive for some r its maximiser is an adversarial image.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyomo.environ as pyo
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import polyopt as po
from polyopt.layers import Affine

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5  # a margin closer to 0 than this is not a verdict: HiGHS works to 1e-6


@dataclass
class Answer:
    """What was found for one image and one eps."""

    image: int
    label: int
    eps: float
    verdict: str = "unknown"
    rival: int | None = None  # the class that comes closest to, or goes farthest beyond, the true one
    worst_margin: float = np.inf
    solved: dict[int, float] = field(default_factory=dict)  # class -> largest margin, for those that needed a MILP
    unstable_units: int = 0
    nodes: int = 0
    seconds: float = 0.0
    adversarial: list[float] | None = None
    omlt: dict | None = None


def load_data():
    """Training and test images as pixels in [0, 1], float32, and their classes."""
    digits = load_digits()
    images = (digits.data / 16.0).astype(np.float32)
    return train_test_split(images, digits.target, test_size=360, random_state=0, stratify=digits.target)


def train(images, labels, epochs: int) -> torch.nn.Module:
    """The classifier, trained with Adam on the GPU where there is one, returned on the CPU in evaluation mode."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    device = "cuda" if torch.cuda.is_available() else "cpu"
    widths = (64, 64, 64, 10)
    layers = [m for i in range(3) for m in (torch.nn.Linear(widths[i], widths[i + 1]), torch.nn.ReLU())][:-1]
    model = torch.nn.Sequential(*layers).to(device)
    x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in tqdm(range(epochs), desc=f"training on {device}"):
        for batch in torch.randperm(len(x), device=device).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.cpu().eval()


def margins_of(net: po.Network, label: int) -> po.Network:
    """The network of the ten margins ``net(x)_r - net(x)_label``."""
    difference = np.eye(10)
    difference[:, label] -= 1.0
    layers = [(node.name, node.layer, node.inputs) for node in net.nodes]
    last = net.nodes[-1].name
    return po.Network([*layers, ("margins", Affine(difference, None), [last])], net.input_shape).simplify()


def worst_case(net, model, answer: Answer, image, bar) -> None:
    """Fill in the answer: CROWN settles the classes it can, a MILP each of the others."""
    start = time.perf_counter()
    margins = margins_of(net, answer.label)
    box = po.Box.ball(image, answer.eps, 0.0, 1.0)
    bounds = po.crown(margins, box)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(64), bounds=lambda _, i: (float(box.lower[i]), float(box.upper[i])))
    m.net = pyo.Block()
    margin = po.add_network(m.net, margins, m.x, bounds=bounds)
    m.objective = pyo.Objective(expr=0.0, sense=pyo.maximize)
    answer.unstable_units = po.summary(m.net).unstable

    upper = {r: float(bounds.output.upper[r]) for r in range(10) if r != answer.label}
    for rival in sorted(upper, key=upper.get, reverse=True):
        if upper[rival] >= -TOLERANCE:
            m.objective.expr = margin[rival]
            result = po.solve(m)
            if result.status != "optimal":
                raise RuntimeError(f"image {answer.image}, eps {answer.eps}, class {rival}: HiGHS says {result.status}")
            upper[rival] = answer.solved[rival] = result.bound
            answer.nodes += result.nodes
            if result.bound == max(answer.solved.values()) and result.objective > TOLERANCE:
                answer.adversarial = np.clip([v.value for v in m.x.values()], box.lower, box.upper).tolist()
        bar.update()

    answer.rival = max(upper, key=upper.get)
    answer.worst_margin = upper[answer.rival]
    answer.verdict = verdict(answer, model)
    answer.seconds = time.perf_counter() - start


def verdict(answer: Answer, model) -> str:
    """Falsified only if the torch module itself misclassifies the image found; verified only well below zero."""
    if answer.worst_margin < -TOLERANCE:
        return "verified"
    if answer.adversarial is not None:
        with torch.no_grad():
            logits = model(torch.tensor([answer.adversarial], dtype=torch.float32))[0]
        if int(logits.argmax()) != answer.label:
            return "falsified"
    return "unknown"


def draw(answers: list[Answer], images, path: Path) -> None:
    """Original, adversarial image and their difference, for the smallest eps that fools the network on each image."""
    found = {}
    for answer in answers:
        if answer.verdict == "falsified":
            found.setdefault(answer.image, answer)
    if not found:
        return
    figure, axes = plt.subplots(3, len(found), figsize=(2.0 * len(found), 6.4), squeeze=False, layout="constrained")
    for column, answer in zip(axes.T, found.values(), strict=True):
        original, adversarial = images[answer.image], np.array(answer.adversarial)
        limit = max(answer.eps, 1e-9)
        column[0].imshow(original.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        column[0].set_title(f"a {answer.label}")
        column[1].imshow(adversarial.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        column[1].set_title(f"seen as a {answer.rival}")
        column[2].imshow((adversarial - original).reshape(8, 8), cmap="RdBu_r", vmin=-limit, vmax=limit)
        column[2].set_title(f"eps {answer.eps}, margin {answer.worst_margin:.2f}", fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], ("test image", "worst image in the ball", "difference"), strict=True):
        axis.set_ylabel(label)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(answers: list[Answer]) -> str:
    """The results as a Markdown table."""
    with_omlt = any(answer.omlt for answer in answers)
    head = ["image", "class", "eps", "verdict", "worst margin", "unstable units", "MILPs", "nodes", "seconds"]
    head += ["OMLT: binaries", "OMLT: seconds"] if with_omlt else []
    rows = [head, ["---:"] * len(head)]
    for a in answers:
        margin = f"{'' if a.rival in a.solved else '<= '}{a.worst_margin:.4f} (class {a.rival})"
        row = [a.image, a.label, a.eps, a.verdict, margin, a.unstable_units, len(a.solved), a.nodes, f"{a.seconds:.2f}"]
        row += [a.omlt["binaries"], f"{a.omlt['seconds']:.2f}"] if a.omlt else []
        rows.append(row)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two images and two eps, under 40 s; writes to small/")
    parser.add_argument("--omlt", action="store_true", help="ask OMLT + HiGHS the same questions (pip install omlt)")
    options = parser.parse_args()

    train_x, test_x, train_y, test_y = load_data()
    model = train(train_x, train_y, epochs=15 if options.small else 60)
    net = po.from_torch(model, input_shape=(64,))
    predicted = net(test_x).argmax(1)
    print(f"test accuracy {np.mean(predicted == test_y):.3f}")

    chosen = np.flatnonzero(predicted == test_y)[: 2 if options.small else 5].tolist()
    radii = (0.03, 0.1) if options.small else (0.03, 0.06, 0.1)
    answers = [Answer(image, int(test_y[image]), eps) for eps in radii for image in chosen]
    with tqdm(total=9 * len(answers), desc="rival classes") as bar:
        for answer in answers:
            worst_case(net, model, answer, test_x[answer.image], bar)
    if options.omlt:
        from omlt_rival import ask_omlt

        for answer in tqdm(answers, desc="OMLT + HiGHS"):
            answer.omlt = ask_omlt(net, test_x[answer.image], answer.label, answer.eps, answer.solved)

    out = HERE / "small" if options.small else HERE
    out.mkdir(exist_ok=True)
    draw(answers, test_x, out / "digits.png")
    packages = ("pyomo", "highspy", "torch", "numpy", "scikit-learn") + (("omlt",) if options.omlt else ())
    results = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "test_accuracy": float(np.mean(predicted == test_y)),
        "answers": [asdict(answer) for answer in answers],
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    print(table(answers))
    print(f"polyopt: {sum(a.seconds for a in answers):.1f} s for {sum(len(a.solved) for a in answers)} MILPs")


if __name__ == "__main__":
    main()
