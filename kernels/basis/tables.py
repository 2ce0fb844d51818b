"""Constants of the closed forms, computed in Python while a kernel is compiled."""

import math

import triton


@triton.constexpr_function
def _coefficients(degree):
    """C(p+1, m) r_m^p / p!,  r_m = (p+1)/2 - m,  for m = 0..floor(p/2)."""
    return tuple(
        math.comb(degree + 1, m) * ((degree + 1) / 2 - m) ** degree / math.factorial(degree)
        for m in range(degree // 2 + 1)
    )


@triton.constexpr_function
def peak(degree):
    """The largest coefficient of the closed form; 1 for degree 0."""
    return max(_coefficients(degree)) if degree > 0 else 1.0


@triton.constexpr_function
def heights(degree):
    """s_m = (coefficient m / the largest)^(1/p), so that s_m^p (1 - |u| / r_m)^p = (s_m - |u| s_m / r_m)^p."""
    return tuple((c / peak(degree)) ** (1 / degree) for c in _coefficients(degree))


@triton.constexpr_function
def slopes(degree):
    """s_m / r_m."""
    return tuple(s / ((degree + 1) / 2 - m) for m, s in enumerate(heights(degree)))


@triton.constexpr_function
def falling(degree, deriv):
    """k! / (k - n)!"""
    return float(math.perm(degree, deriv))


@triton.constexpr_function
def difference(n):
    """(-1)^i C(n, i) for i = 0..n: the n-fold difference."""
    return tuple((-1) ** i * math.comb(n, i) for i in range(n + 1))


@triton.constexpr_function
def _derive(poly):
    return tuple(n * a for n, a in enumerate(poly))[1:]


@triton.constexpr_function
def _multiply(p, q):
    out = [0.0] * max(len(p) + len(q) - 1, 0)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return tuple(out)


@triton.constexpr_function
def _add(p, q):
    n = max(len(p), len(q))
    return tuple(
        a + b for a, b in zip(p + (0.0,) * (n - len(p)), q + (0.0,) * (n - len(q)), strict=True)
    )


@triton.constexpr_function
def sigmoid_polynomial(n):
    """P_n with sigmoid^(n)(x) = P_n(sigmoid(x)), lowest power first: P_{n+1} = P_n' (s - s^2)."""
    poly = (0.0, 1.0)
    for _ in range(n):
        poly = _multiply(_derive(poly), (0.0, 1.0, -1.0))
    return poly


@triton.constexpr_function
def tanh_polynomial(n):
    """Q_n with tanh^(n)(x) = Q_n(tanh(x)), lowest power first: Q_{n+1} = Q_n' (1 - t^2)."""
    poly = (0.0, 1.0)
    for _ in range(n):
        poly = _multiply(_derive(poly), (1.0, 0.0, -1.0))
    return poly


@triton.constexpr_function
def _normal_derivative(n):
    """He with phi^(n)(x) = He(x) phi(x), phi the normal density: He_{n+1} = He_n' - x He_n."""
    poly = (1.0,)
    for _ in range(n):
        poly = _add(_derive(poly), _multiply((0.0, -1.0), poly))
    return poly


@triton.constexpr_function
def gelu_polynomial(n):
    """R_n with gelu^(n)(x) = R_n(x) phi(x) for n >= 2;  gelu^(n) = x Phi^(n) + n Phi^(n-1)."""
    x_times = _multiply((0.0, 1.0), _normal_derivative(n - 1))
    return _add(x_times, tuple(n * a for a in _normal_derivative(n - 2)))
