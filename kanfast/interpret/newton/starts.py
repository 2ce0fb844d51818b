"""First values for training: random functions of about the size of the grid and of the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.interpret.newton.grids import span, uniform
from kanfast.interpret.newton.marquardt import Problem
from kanfast.interpret.newton.networks import Networks

_BEND = 0.3  # of a random spline, in units of its slope


@torch.no_grad()
def fresh(own: Networks, count: int, problem: Problem, generator: torch.Generator) -> Networks:
    """`count` networks like `own`, with new values for the splines that are trained.

    An edge is a straight line of random slope plus smaller random coefficients, on a grid over the
    range of its inputs; its residual function is 0 at first. What is frozen, symbolic edges and
    affine maps are those of `own`.
    """
    plan = own.plan
    theta, knots = own.theta.repeat(count, 1), [t.repeat(count, 1, 1) for t in own.knots]
    free, depth = plan.free, len(plan.layers)
    for index, layer in enumerate(plan.layers):
        made = Networks(plan, theta, knots)
        h = made.inputs(problem.x)[index]
        piece, degree = plan.pieces[index, "spline"], layer.spline_order
        outputs, inputs, width = piece.shape
        if layer.spline_weight.requires_grad and plan.moves_grids:
            low, high = span(h)
            high = torch.where(high > low, high, low + 1)
            knots[index] = uniform(low, high, width - degree, degree)
        line = torch.linspace(-1, 1, width, dtype=torch.float64)
        slopes = _normal(generator, count, outputs, inputs, 1)
        c = (
            slopes * line + _BEND * _normal(generator, count, outputs, inputs, width)
        ) / inputs**0.5
        if index == depth - 1:
            c = c * problem.unit
            if plan.nodes[index] is None:
                c = c + (problem.y.mean(0).cpu() / inputs)[:, None, None]
        new = c.flatten(1).to(theta)
        theta[:, piece.at] = torch.where(free[piece.at], new, theta[:, piece.at])
        base = plan.pieces.get((index, "base"))
        if base is not None:
            theta[:, base.at] = torch.where(free[base.at], 0.0, theta[:, base.at])
    return Networks(plan, theta, knots)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def joined(first: Networks, second: Networks) -> Networks:
    """The networks of both."""
    knots = [torch.cat(pair) for pair in zip(first.knots, second.knots, strict=True)]
    return Networks(first.plan, torch.cat([first.theta, second.theta]), knots)
