"""Attention over tokens and over channels."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, parallel

# What attention gives, and the float32 maps of it, or None where they are not asked for.
Attended = tuple[jax.Array, jax.Array | None]


def attend(q_NLHK: jax.Array, k_NLHK: jax.Array, v_NLHK: jax.Array,
           bias_HLL: jax.Array | None = None) -> Attended:
    """Softmax attention (Vaswani et al. 2017, arXiv:1706.03762), scaled by 1 / sqrt(K).

    Args:
      q_NLHK, k_NLHK, v_NLHK: of one dtype; the length L of q may differ from that of k and v.
      bias_HLL: float32, added to the scores; any shape that broadcasts to attn_NHLL with its rank
        or one less.

    Returns:
      y_NLHK of their dtype and None.
    """
    scores_NHLL, v_NHLK = _scores(q_NLHK, k_NLHK, v_NLHK, bias_HLL)
    return _average(scores_NHLL, v_NHLK).swapaxes(1, 2), None


def maps(q_NLHK: jax.Array, k_NLHK: jax.Array, v_NLHK: jax.Array,
         bias_HLL: jax.Array | None = None) -> Attended:
    """``attend`` with attn_NHLL in float32: the very array that y_NLHK is computed from.

    A gradient at attn_NHLL is therefore that of what the maps do (see explain/layers.py). The
    numbers of y_NLHK are those of ``attend``; those of its gradients may be rounded otherwise.
    """
    scores_NHLL, v_NHLK = _scores(q_NLHK, k_NLHK, v_NLHK, bias_HLL)
    attn_NHLL = jax.nn.softmax(scores_NHLL)
    return _weighted(attn_NHLL, v_NHLK).swapaxes(1, 2), attn_NHLL


def _scores(q_NLHK: jax.Array, k_NLHK: jax.Array, v_NLHK: jax.Array,
            bias_HLL: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns scores_NHLL in float32 and v_NHLK."""
    # jax.nn.dot_product_attention does the same by implicit promotion, which strict mode refuses,
    # and with the heads after the tokens, which XLA's CPU backend runs slower.
    q_NHLK, k_NHLK, v_NHLK = (x_NLHK.swapaxes(1, 2) for x_NLHK in (q_NLHK, k_NLHK, v_NLHK))
    q_NHLK *= q_NHLK.shape[-1] ** -0.5
    scores_NHLL = jnp.einsum('nhqk,nhvk->nhqv', q_NHLK, k_NHLK, preferred_element_type=jnp.float32)
    if bias_HLL is not None:
        scores_NHLL += bias_HLL if bias_HLL.ndim == 4 else bias_HLL[None]
    return scores_NHLL, v_NHLK


@jax.custom_jvp
def _average(scores_NHLL: jax.Array, v_NHLK: jax.Array) -> jax.Array:
    """Returns y_NHLK, the averages of the values weighted by the softmax of the scores."""
    return _weighted(jax.nn.softmax(scores_NHLL), v_NHLK)


def _weighted(attn_NHLL: jax.Array, v_NHLK: jax.Array) -> jax.Array:
    return jnp.einsum('nhqv,nhvk->nhqk', attn_NHLL.astype(v_NHLK.dtype), v_NHLK)


@_average.defjvp
def _average_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Transposed, this sums y * dy over the channels, where the gradient of jax.nn.softmax sums
    # attn * dattn over the values: the same sum of fewer numbers (Dao et al. 2022,
    # arXiv:2205.14135, appendix B.2).
    scores_NHLL, v_NHLK = primals
    dscores_NHLL, dv_NHLK = tangents
    attn_NHLL = jax.nn.softmax(scores_NHLL)
    y_NHLK = _weighted(attn_NHLL, v_NHLK)
    weighted_NHLL = attn_NHLL * dscores_NHLL
    minus_mean_NHL1 = layers.once(-weighted_NHLL.sum(-1, keepdims=True))
    correction_NHLK = (minus_mean_NHL1 * y_NHLK.astype(jnp.float32)).astype(y_NHLK.dtype)
    return y_NHLK, (
        _weighted(weighted_NHLL, v_NHLK) + correction_NHLK + _weighted(attn_NHLL, dv_NHLK))


def cudnn(q_NLHK: jax.Array, k_NLHK: jax.Array, v_NLHK: jax.Array,
          bias_HLL: jax.Array | None = None) -> Attended:
    """``attend`` by cuDNN's fused kernel: GPU, bfloat16, without a bias and without the maps."""
    if bias_HLL is not None:
        raise ValueError("attention 'cudnn' takes no bias on the scores; use 'xla'")
    return jax.nn.dot_product_attention(q_NLHK, k_NLHK, v_NLHK, implementation='cudnn'), None


# Only 'maps' returns the attention maps.
ATTENTIONS = {'xla': attend, 'cudnn': cudnn, 'maps': maps}


# How config.mesh.tensor splits a transformer: attention by heads, the MLP by hidden units.
BY_HEADS = (
    (r'attn/qkv/(kernel|bias)$', 'heads'),
    (r'attn/proj/kernel$', -2),
    (r'mlp[/.]fc1/(kernel|bias)$', -1),
    (r'mlp[/.]fc2/kernel$', -2),
)


class Heads(nn.Module):
    """Queries, keys and values of each head: x (..., D) -> (..., 3, H, K), by one dense layer.

    Its kernel is (D, 3 D). On a mesh with an axis `tensor` each device computes its own heads.
    """

    heads: int
    use_bias: bool
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D = x.shape[-1]
        shape = (3, self.heads, D // self.heads)
        kernel_DF = self.param('kernel', self.kernel_init, (D, 3 * D), jnp.float32)
        bias_F = self.param('bias', layers.zeros, (3 * D,), jnp.float32) if self.use_bias else None
        x, kernel_DF, bias_F = nn.dtypes.promote_dtype(x, kernel_DF, bias_F, dtype=self.dtype)
        if parallel.parts() == 1:  # the same numbers by the faster program of a dense layer
            y = layers.dot(x, kernel_DF)
            y = y if bias_F is None else y + bias_F.reshape((1,) * (y.ndim - 1) + (-1,))
            return y.reshape(*x.shape[:-1], *shape)
        x = parallel.whole(x)
        kernel_D3HK = parallel.split(kernel_DF.reshape(D, *shape), 2, batch=False)
        y = jnp.einsum('...d,dthk->...thk', x, kernel_D3HK)
        if bias_F is not None:
            bias_3HK = parallel.split(bias_F.reshape(shape), 1, batch=False)
            y += bias_3HK.reshape((1,) * (y.ndim - 3) + shape)
        return parallel.split(y, -2)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762) with one qkv projection.

    x_NLD -> (y_NLD, attn_NHLL in float32 or None); ``attend`` is one of ``ATTENTIONS``.
    """

    heads: int
    qkv_bias: bool
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> Attended:
        N, L, D = x_NLD.shape
        dense = partial(layers.Dense, dtype=self.dtype)
        # By its fan-in the joint kernel starts as three square ones would by Xavier's rule.
        init = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')
        qkv_NL3HK = Heads(self.heads, self.qkv_bias, init, self.dtype, name='qkv')(x_NLD)
        y_NLHK, attn_NHLL = self.attend(*(qkv_NL3HK[:, :, i] for i in range(3)))
        proj = dense(D, kernel_init=nn.initializers.xavier_uniform(), name='proj')
        return parallel.whole(proj(y_NLHK.reshape(N, L, D))), attn_NHLL


class SqueezeExcite(nn.Module):
    """x_NHWC times a gate per channel, computed from the channel means (Hu et al. 2017).

    arXiv:1709.01507.

    Attributes:
      reduced: width of the bottleneck.
      act: activation in the bottleneck.
      gate: activation of the gates.
      names: names of the two layers.
    """

    reduced: int
    act: Any = jax.nn.relu
    gate: Any = jax.nn.sigmoid
    names: tuple[str, str] = ('fc1', 'fc2')
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        conv = partial(convolve.Conv, kernel_size=1, use_bias=True, dtype=self.dtype)
        mean_N11C = x_NHWC.mean(axis=(1, 2), keepdims=True)
        y_N11R = self.act(conv(self.reduced, name=self.names[0])(mean_N11C))
        return x_NHWC * self.gate(conv(x_NHWC.shape[-1], name=self.names[1])(y_N11R))


class ECA(nn.Module):
    """x_NHWC times a gate per channel: ECA (Wang et al. 2019, arXiv:1910.03151)."""

    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        width = int((math.log2(x_NHWC.shape[-1]) + 1) / 2)
        width = max(3, width if width % 2 else width + 1)
        conv = nn.Conv(1, (width,), use_bias=False, dtype=self.dtype, name='conv')
        gate_NC1 = nn.sigmoid(conv(x_NHWC.mean(axis=(1, 2))[:, :, None]))
        return x_NHWC * gate_NC1[:, None, None, :, 0]
