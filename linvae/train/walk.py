"""Which batch every member of a stack sees next, and which of its sides steps on it.

`JointWalk`: encoder and decoder of all members step together, all members of a seed on one batch.

`MemberWalk`: every member goes its own way, in lockstep with the others of the stack. In an inner
loop (`linvae.train.remedies.Aggressive`) its encoder steps alone, on the batch that is next in its
epoch and then on others; when the loop ends its decoder steps alone on the first of them. Without
one both step. A member has its own place in the streams of its seed, so what it sees depends on its
own steps only: a remedy gives the same member in any stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.train.data import BatchOrder
from linvae.train.remedies import Aggressive

__all__ = ["JointWalk", "MemberWalk"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
FIRST = 1e4  # nats: what the first window of an inner loop is compared with, as published
BOTH, ENCODER, DECODER, NEITHER = range(4)  # which sides of a member step


class JointWalk:
    """One batch per seed and step, both sides of all members."""

    def __init__(self, order: BatchOrder) -> None:
        self._order = order
        self.step = 0

    def next(self) -> Tensor:
        """Indices of the next batch, (n_seeds, batch)."""
        return self._order.next()

    def observe(self, members: Tensor, index: Tensor) -> Mask | None:
        """After a step: whose decoders have made it; None: all."""
        self.step += 1
        return None

    def ended(self, steps: int) -> bool:
        """After `steps` steps."""
        return self.step >= steps

    def stop(self, members: Mask) -> None:
        """Nothing: who stops early steps on with the others."""

    def counts(self) -> dict[str, Tensor]:
        """Nothing that differs between members."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Number of steps and place in the streams."""
        return self._order.state() | {"step": torch.tensor(self.step)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self._order.restore(state)
        self.step = int(state["step"])


class MemberWalk:
    """Every member on batches of its own; arrays (n_seeds, n_points).

    | field         | meaning                                                          |
    |---------------|------------------------------------------------------------------|
    | decoder_steps | steps of the decoder, which are the steps of the run             |
    | encoder_steps | steps of the encoder: what an inner loop really costs            |
    | until         | decoder steps at which the phase of inner loops ended, -1: not yet |
    """

    _counts = ("decoder_steps", "encoder_steps", "until", "_side", "_taken", "_falls")
    _sums = ("_total", "_size", "_before", "_best")

    def __init__(
        self,
        inner: Sequence[Aggressive | None],
        order: BatchOrder,
        others: BatchOrder,
        n_seeds: int,
        *,
        most: int,
        sizes: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`order`, `others`: of the outer and of the inner batches, one stream per member.

        `most`: decoder steps after which a member stands still; `sizes` (n,): by what the objective
        of a sample is divided in the test of the inner loop, None: 1.
        """
        shape = (n_seeds, len(inner))
        self._order, self._others, self._most = order, others, most
        self._sizes, self._device = sizes, device
        self._window, self._cap = (
            np.array([getattr(a, name) if a else 0 for a in inner])
            for name in ("window", "most_steps")
        )
        self._allowed = np.array([(a.falls or 0) if a else 0 for a in inner])  # 0: no end
        self.decoder_steps, self.encoder_steps = np.zeros(shape, int), np.zeros(shape, int)
        self.until = np.where(np.array([a is None for a in inner]), 0, np.full(shape, -1))
        self._side = np.full(shape, NEITHER)
        self._taken, self._falls = np.zeros(shape, int), np.zeros(shape, int)
        self._total, self._size = np.zeros(shape), np.zeros(shape)
        self._before, self._best = np.full(shape, FIRST), np.zeros(shape)
        self._outer = self._batch = torch.zeros((*shape, order.batch_size), dtype=torch.long)
        self._begin(np.ones(shape, bool))

    def _begin(self, members: Mask) -> None:
        """The next step of these: its batch, and an inner loop where the phase lasts."""
        running = members & (self.decoder_steps < self._most)
        self._side[members] = NEITHER
        self._side[running] = np.where(self.until < 0, ENCODER, BOTH)[running]
        self._taken[running], self._before[running] = 0, FIRST
        self._total[running] = self._size[running] = 0
        self._outer = self._drawn(self._order, running, self._outer)
        self._batch = torch.where(torch.as_tensor(running)[..., None], self._outer, self._batch)

    def _drawn(self, order: BatchOrder, members: Mask, batches: Tensor) -> Tensor:
        """`batches` with the next ones of these members."""
        if not members.any():
            return batches
        rows = np.flatnonzero(members)
        drawn = batches.flatten(0, 1).clone()
        drawn[torch.as_tensor(rows)] = order.next(rows.tolist())
        return drawn.view(batches.shape)

    def next(self) -> Tensor:
        """Indices of the batch of every member, (n_seeds, n_points, batch)."""
        return self._batch

    def sides(self) -> tuple[Tensor, Tensor]:
        """Whose encoders and whose decoders step, (n_seeds, n_points) each."""
        encoders = (self._side == BOTH) | (self._side == ENCODER)
        decoders = (self._side == BOTH) | (self._side == DECODER)
        return (
            torch.as_tensor(encoders, device=self._device),
            torch.as_tensor(decoders, device=self._device),
        )

    def observe(self, members: Tensor, index: Tensor) -> Mask | None:
        """After a step with objectives `members` on `index`: whose decoders have made it."""
        alone = self._side == ENCODER
        ended = self._inner_loop_ends(alone, members, index)
        stepped: Mask = (self._side == BOTH) | (self._side == DECODER)
        self.encoder_steps += alone | (self._side == BOTH)
        self.decoder_steps += stepped
        going_on = alone & ~ended
        if going_on.any():
            self._batch = self._drawn(self._others, going_on, self._batch)
        if ended.any():
            self._side[ended] = DECODER
            self._batch = torch.where(torch.as_tensor(ended)[..., None], self._outer, self._batch)
        if stepped.any():
            self._begin(stepped)
        return stepped

    def _inner_loop_ends(self, alone: Mask, members: Tensor, index: Tensor) -> Mask:
        """Where the average of a window rose, or the cap is reached."""
        if not alone.any():
            return alone
        size = 1.0 if self._sizes is None else self._sizes[index].double().mean(-1).cpu().numpy()
        self._taken += alone
        self._total += np.where(alone, members.double().cpu().numpy(), 0.0)
        self._size += np.where(alone, size, 0.0)
        full = alone & (self._taken % np.maximum(self._window, 1) == 0)
        average = self._total / np.maximum(self._size, 1e-30)
        rose = full & (self._before < average)
        self._before = np.where(full, average, self._before)
        self._total[full] = self._size[full] = 0
        ends: Mask = rose | (alone & (self._taken >= self._cap))
        return ends

    def hear(self, information: Array, members: Mask) -> None:
        """Validated information of these members, nats, at the end of their epoch."""
        asked = members & (self.until < 0) & (self._allowed > 0)
        fell = asked & (information < self._best)
        self._falls += fell
        self._best = np.where(asked, np.fmax(self._best, information), self._best)
        over = asked & (self._falls >= self._allowed)
        self.until[over] = self.decoder_steps[over]
        self._side[over & (self._side == ENCODER) & (self._taken == 0)] = BOTH

    def stop(self, members: Mask) -> None:
        """These stand still from now on."""
        self._side[members] = NEITHER

    def listens(self) -> Mask:
        """Whose phase of inner loops waits for validated information."""
        waiting: Mask = (self.until < 0) & (self._allowed > 0)
        return waiting

    def ended(self, steps: int) -> bool:
        """Where all members stand still."""
        return bool(self.still.all())

    @property
    def still(self) -> Mask:
        """Who stands still, for good."""
        found: Mask = self._side == NEITHER
        return found

    @property
    def epoch(self) -> int:
        """Steps of a decoder in which it sees all samples once, the last batch perhaps not full."""
        return -(-self._order.n_samples // self._order.batch_size)

    def counts(self) -> dict[str, Tensor]:
        """Fields of the table above."""
        names = ("decoder_steps", "encoder_steps", "until")
        return {name: torch.as_tensor(getattr(self, name).copy()) for name in names}

    @property
    def step(self) -> int:
        """Steps that every running member has made."""
        running = self._side != NEITHER
        return int(self.decoder_steps[running].min()) if running.any() else self._most

    def state(self) -> dict[str, Tensor]:
        """All that changes."""
        arrays = {name: torch.as_tensor(getattr(self, name)) for name in self._counts + self._sums}
        streams = {f"order.{k}": v for k, v in self._order.state().items()}
        streams |= {f"others.{k}": v for k, v in self._others.state().items()}
        return arrays | streams | {"outer": self._outer, "batch": self._batch}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        for name in self._counts + self._sums:
            setattr(self, name, state[name].cpu().numpy().copy())
        self._outer, self._batch = state["outer"].clone(), state["batch"].clone()
        for prefix, order in (("order.", self._order), ("others.", self._others)):
            own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            order.restore(own)
