"""RecAdam: Adam whose steps go over from a pull towards the pretrained weights to the task itself.

    theta <- theta - lr * lambda(t) * m_hat / (sqrt(v_hat) + eps) - lr * (1 - lambda(t)) * gamma * (theta - theta_0)
    lambda(t) = 1 / (1 + exp(-k (t - t_0)))

with Adam's m_hat and v_hat, t counted from 1. With lambda = 1 this is Adam, with lambda = 0 nothing moves.

Source: Chen et al., "Recall and learn", EMNLP 2020 (arXiv:2004.12651); baseline of CKL
(arXiv:2110.03215) with k = 0.5, t_0 = 250, gamma = 5000. The official code of CKL gives the pull only to parameters
whose names hold "t5", which no name of a T5 model does, so that its RecAdam is Adam. Here every parameter is pulled.

The pull is an explicit step on a quadratic: it overshoots where lr * (1 - lambda) * gamma > 1 and grows without bound
above 2, which CKL's learning rate of 1e-3 with gamma = 5000 would exceed. ``pull="implicit"`` takes the proximal step

    theta <- (theta_Adam + c theta_0) / (1 + c),    c = lr * (1 - lambda(t)) * gamma

instead, which agrees with the explicit one to first order in c and is stable for every c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.errors import SettingsError, TargetError, TrainingError

RATE, START, COEFFICIENT = 0.5, 250.0, 5000.0  # k, t_0 and gamma
PULLS = ("explicit", "sequential", "implicit")
UNSTABLE = 2.0  # an explicit step of this size on a quadratic no longer shrinks the distance


def annealing(step: int, *, rate: float = RATE, start: float = START) -> float:
    """lambda(t) = 1 / (1 + exp(-k (t - t_0))), the share of the task in step ``step`` (counted from 1).

    >>> annealing(250), annealing(1, start=math.inf), annealing(1, start=-math.inf)
    (0.5, 0.0, 1.0)
    """
    exponent = rate * (step - start)
    if exponent < 0:
        power = math.exp(max(exponent, -745.0)) if exponent > -745 else 0.0
        return power / (1 + power)
    return 1 / (1 + math.exp(-exponent))


class RecAdam(torch.optim.Optimizer):
    """Adam with a fading pull towards ``anchors``; see the module for the rule.

    Args:
        parameters: to train.
        anchors: theta_0 of each, in the same order and of the same shapes; copies of ``parameters`` unless given. A
            resumed run must give those of its beginning: they are no part of the optimiser's state.
        lr, betas, eps: as of Adam.
        rate, start, coefficient: k, t_0 and gamma.
        pull: ``"explicit"``, the published rule; ``"sequential"``, the same from where Adam's step has led, as in the
            official code of RecAdam; ``"implicit"``, the proximal step.

    Raises:
        SettingsError: a setting is out of range.
        TargetError: anchors do not fit the parameters.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        anchors: Sequence[Tensor] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        rate: float = RATE,
        start: float = START,
        coefficient: float = COEFFICIENT,
        pull: str = "explicit",
    ) -> None:
        _check(lr=lr, betas=betas, eps=eps, rate=rate, start=start, coefficient=coefficient, pull=pull)
        listed = list(parameters)
        super().__init__(listed, {"lr": lr, "betas": betas, "eps": eps})
        given = [parameter.detach().clone() for parameter in listed] if anchors is None else list(anchors)
        if [tuple(one.shape) for one in given] != [tuple(one.shape) for one in listed]:
            what = f"{len(given)} anchors do not fit {len(listed)} parameters"
            raise TargetError(what, where="RecAdam", mend="give one of the same shape for each")
        self.anchors = dict(zip(listed, given, strict=True))
        self.rate, self.start, self.coefficient, self.pull = rate, start, coefficient, pull

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step on the gradients at hand; parameters without one stay.

        Raises:
            TrainingError: an explicit pull would throw the weights away from where they began.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient, (beta1, beta2) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        share = annealing(step, rate=self.rate, start=self.start)
        strength = group["lr"] * (1 - share) * self.coefficient
        anchor = self.anchors[parameter].to(parameter.device)
        denominator = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        distance = parameter - anchor if self.pull == "explicit" else None
        parameter.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] * share / (1 - beta1**step))
        if self.pull == "implicit":
            parameter.sub_((parameter - anchor) * (strength / (1 + strength)))
            return
        distance = parameter - anchor if distance is None else distance
        if strength > UNSTABLE and bool(distance.any()):
            what = f"the pull of step {step} is {strength:.3g} times the distance to the start, and would overshoot it"
            mend = 'lower the learning rate or the coefficient until it is below 1, or choose pull="implicit"'
            raise TrainingError(what, where="RecAdam", mend=mend)
        parameter.sub_(distance, alpha=strength)


def _check(**given: Any) -> None:
    for name in ("lr", "eps", "rate", "coefficient"):
        if not 0 <= given[name] < math.inf:
            raise SettingsError(f"{name} is {given[name]}", where="RecAdam", mend="choose a number of 0 or more")
    if math.isnan(given["start"]):
        raise SettingsError("start is no number", where="RecAdam", mend="choose the step of equal shares")
    if not all(0 <= beta < 1 for beta in given["betas"]):
        raise SettingsError(f"betas are {given['betas']}", where="RecAdam", mend="choose them in [0, 1)")
    if given["pull"] not in PULLS:
        raise SettingsError(f'"{given["pull"]}" is no pull', where="RecAdam", mend=f"choose one of {', '.join(PULLS)}")
