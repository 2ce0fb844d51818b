"""Who computes: this library, an MLP, the Cox-de Boor recursion, and other packages where they are.

Other packages run as their own documentation uses them. Those that compute B-spline KANs get the
weights of the case, so that all compute the same function and can be checked against it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import pairwise

import torch
from torch import Tensor, nn

import kanfast
from bench.cases import Case, Weights
from bench.coxdeboor import CoxDeBoorKAN
from kanfast.cli.compare import count_parameters, mlp, mlp_widths

# From parameters (or, when gradients are wanted, from their gradients) the coefficients [O, I, G+k]
# and residual weights [O, I] of each layer.
Pick = Callable[[nn.Parameter], Tensor]
Edges = Callable[[nn.Module, Pick], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Provider:
    """A way to compute a case.

    `edges` is None for networks that are no B-spline KANs: those are checked against their own
    copies in float64. `elements` estimates how many numbers a training step holds at one time.
    """

    name: str
    build: Callable[[Case], nn.Module]
    edges: Edges | None
    package: str = "kanfast"
    compiled: bool = False
    elements: Callable[[Case], int] = lambda case: 2 * case.batch * sum(case.widths)

    def obstacle(self, case: Case) -> str:
        """Why it cannot compute this case, or ""."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if self.package in ("inkan", "flashkan") and case.degree != 3:
            return "cubic splines only"
        return ""

    @property
    def version(self) -> str:
        name = DISTRIBUTIONS.get(self.package, self.package)
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "source"


DISTRIBUTIONS = {"kan": "pykan"}


@dataclass
class Subject:
    """A provider's network for a case: the module, and `call` and `loss`, compiled or not."""

    provider: Provider
    case: Case
    device: str
    module: nn.Module
    compiled: bool = False

    def __post_init__(self) -> None:
        call: Callable[..., Tensor] = self.module

        def loss(x: Tensor, target: Tensor) -> Tensor:
            """The sum of squares: one function with the network, as it is compiled for training."""
            return (self.module(x) - target).square().sum()

        wrap = partial(torch.compile, fullgraph=True) if self.compiled else lambda f: f
        self.call, self.loss = wrap(call), wrap(loss)

    def load(self, weights: Weights) -> None:
        """Gives the network the weights of the case."""
        if self.provider.edges is None:
            return
        with torch.no_grad():
            views = self.provider.edges(self.module, lambda parameter: parameter.data)
            for (c, base), (spline_view, base_view) in zip(weights, views, strict=True):
                spline_view.copy_(c)
                base_view.copy_(base)
            for name, parameter in self.module.named_parameters():
                if name.endswith(("spline_scaler", "scale_sp")):
                    parameter.fill_(1)

    def gradients(self) -> list[Tensor]:
        """Of the coefficients and residual weights; of all parameters for other networks."""
        if self.provider.edges is None:
            return [p.grad for p in self.module.parameters() if p.grad is not None]
        views = self.provider.edges(self.module, _gradient)
        return [tensor for pair in views for tensor in pair]


def make_subject(provider: Provider, case: Case, device: str) -> Subject:
    default = torch.get_default_dtype()
    torch.set_default_dtype(case.torch_dtype)  # most packages have no argument for it
    try:
        module = provider.build(case).to(device)
    finally:
        torch.set_default_dtype(default)
    return Subject(provider, case, device, module, provider.compiled)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("no gradient reached the parameters")
    return parameter.grad


def _cox_de_boor(case: Case) -> nn.Module:
    return CoxDeBoorKAN(case.widths, case.grid_size, case.degree)


def _kanfast(case: Case) -> nn.Module:
    return kanfast.KAN(case.widths, case.grid_size, case.degree)


def _kanfast_reference(case: Case) -> nn.Module:
    return kanfast.KAN(case.widths, case.grid_size, case.degree, backend="reference")


def _mlp_of_same_parameters(case: Case) -> nn.Module:
    return mlp(mlp_widths(case.widths, count_parameters(_cox_de_boor(case))))


def _mlp_of_same_widths(case: Case) -> nn.Module:
    return mlp(case.widths)


def _efficient_kan(case: Case) -> nn.Module:
    from efficient_kan import KAN

    return KAN(list(case.widths), grid_size=case.grid_size, spline_order=case.degree)


def _pykan(case: Case) -> nn.Module:
    from kan import KAN

    model = KAN(list(case.widths), grid=case.grid_size, k=case.degree, auto_save=False)
    return model.speed()


def _inkan(case: Case) -> nn.Module:
    from inkan import KANNetwork

    return KANNetwork(list(case.widths), grid_size=case.grid_size)


def _flashkan(case: Case) -> nn.Module:
    from flashkan import KANNetwork

    return KANNetwork(list(case.widths), grid_size=case.grid_size)


def _fastkan(case: Case) -> nn.Module:
    from fastkan import FastKAN

    return FastKAN(list(case.widths), num_grids=case.grid_size + case.degree)


def _separate(module: nn.Module, pick: Pick) -> Iterable[tuple[Tensor, Tensor]]:
    return [(pick(layer.spline_weight), pick(layer.base_weight)) for layer in module.layers]


def _packed(module: nn.Module, pick: Pick) -> Iterable[tuple[Tensor, Tensor]]:
    for layer in module.layers:
        weight, splines = pick(layer.weight), layer.in_features * layer.n_bases
        shape = (layer.out_features, layer.in_features, layer.n_bases)
        yield weight[:, :splines].view(shape), weight[:, splines:]


def _transposed(module: nn.Module, pick: Pick) -> Iterable[tuple[Tensor, Tensor]]:
    return [(pick(f.coef).transpose(0, 1), pick(f.scale_base).T) for f in module.act_fun]


def _all_bases(case: Case) -> int:
    splines = case.grid_size + case.degree
    return 8 * case.degree * case.batch * sum(case.widths[:-1]) * splines


def _all_edges(case: Case) -> int:
    return 10 * case.batch * sum(inputs * outputs for inputs, outputs in pairwise(case.widths))


_PROVIDERS = (
    Provider("kanfast", _kanfast, _separate),
    Provider("kanfast-compiled", _kanfast, _separate, compiled=True),
    Provider("kanfast-reference", _kanfast_reference, _separate),
    Provider("mlp-parameters", _mlp_of_same_parameters, None, "torch"),
    Provider("mlp-widths", _mlp_of_same_widths, None, "torch"),
    Provider("cox-de-boor", _cox_de_boor, _separate, "torch", elements=_all_bases),
    Provider(
        "cox-de-boor-compiled",
        _cox_de_boor,
        _separate,
        "torch",
        compiled=True,
        elements=_all_bases,
    ),
    Provider("efficient-kan", _efficient_kan, _separate, "efficient_kan", elements=_all_bases),
    Provider("pykan", _pykan, _transposed, "kan", elements=_all_edges),
    Provider("inkan", _inkan, _packed, "inkan", elements=_all_bases),
    Provider("flashkan", _flashkan, _separate, "flashkan", elements=_all_bases),
    Provider("fastkan", _fastkan, None, "fastkan", elements=_all_bases),
)
PROVIDERS = {provider.name: provider for provider in _PROVIDERS}
QUICK = ("kanfast", "kanfast-compiled", "mlp-parameters", "cox-de-boor")
