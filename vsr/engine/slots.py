"""A decoding batch of fixed shape: every tensor stays where it is, one step is one function that the host never waits
for, and what it costs hangs on shapes alone. That is what a CUDA graph can hold; the plain loop is the same function.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

from vsr.engine.inputs import embed
from vsr.engine.logps import read
from vsr.engine.text import Layer, language_part, norm, rotation

WARM = 2  # steps of a shape on a GPU before it is worth a capture
SHORTEST = 64  # own tokens that a captured step looks at; then twice, four times as many


@dataclass(frozen=True)
class Group:
    """A prefix read once and the branches that continue it, one behind the other: `ids` (tokens,) at `places` (3,
    tokens), the first `prefix` of them the prefix's, then branches of `lengths`; `features` are its video's. `rows`
    says which answers they are, `draws` (branches, new tokens) what decides their tokens, None where greedy."""

    ids: LongTensor
    places: LongTensor
    features: Tensor | None
    prefix: int
    lengths: list[int]
    rows: list[int]
    draws: Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """`groups` slots of at most `width` rows; tokens of a prefix, of a row's own (`room`), of its answer (`new`)."""

    groups: int
    width: int
    prefix: int
    room: int
    new: int


class Slots:
    """Rows that are decoded together, see `Shape`, slot by slot; `who` holds each row's answer, -1 for none.

    A row's own tokens fill its room from the left; one that has ended stands still. Token by token it is: draw the
    place of the cumulative distribution that its draw passes, or the likeliest at temperature 0; `suppress` lists
    tokens never chosen (the special vision tokens crash the next forward)."""

    ROWS = ("tokens", "places", "filled", "count", "alive", "answers", "logps", "draws")

    def __init__(self, base, shape: Shape, eos: int, suppress: list[int], temperature: float):
        self.base, self.shape, self.text = base, shape, language_part(base)
        self.layers = [Layer(module) for module in self.text.layers]
        self.eos, self.temperature = eos, temperature
        device, rows = base.device, shape.groups * shape.width
        self.suppress = torch.tensor(suppress, dtype=torch.long, device=device)
        self.forever = torch.arange(shape.room, device=device)
        kv, d, dtype = self.layers[0].kv, self.layers[0].d, base.get_input_embeddings().weight.dtype
        # keys and values by layer: of prefixes (2, kv heads, groups, prefix, d), of rows (2, kv heads, rows, room, d)
        past, own = (2, kv, shape.groups, shape.prefix, d), (2, kv, rows, shape.room, d)
        self.past = [torch.zeros(past, dtype=dtype, device=device) for _ in self.layers]
        self.own = [torch.zeros(own, dtype=dtype, device=device) for _ in self.layers]
        self.beyond = torch.zeros(shape.groups, 1, shape.prefix, dtype=dtype, device=device)
        self.tokens, self.places, self.filled, self.count = torch.zeros(4, rows, dtype=torch.long, device=device)
        self.alive = torch.zeros(rows, dtype=torch.bool, device=device)
        # the last column takes what rows that have ended write
        self.answers = torch.zeros(rows, shape.new + 1, dtype=torch.long, device=device)
        self.logps = torch.zeros(rows, shape.new + 1, device=device)
        self.draws = torch.zeros(rows, shape.new + 1, dtype=torch.float64, device=device)
        self.order = torch.arange(rows, device=device)
        self.slot, self.seats = [row // shape.width for row in range(rows)], None
        self.who, self.reach = [-1] * rows, [0] * shape.groups
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.met: Counter[int] = Counter()

    def put(self, groups: dict[int, Group]) -> None:
        """Read groups into free slots, in one packed pass without padding; each branch's last token is left to the
        first step, so that the last layer's keys are all that is needed of the others."""
        sink: list[tuple[Tensor, Tensor]] = []
        embeddings, places, shape = [], [], []
        for group in groups.values():
            inner = torch.ones(len(group.ids), dtype=torch.bool)
            inner[group.prefix + torch.tensor(group.lengths).cumsum(0) - 1] = False
            embeddings.append(embed(self.base, group.ids, group.features)[inner.to(self.base.device)])
            places.append(group.places[:, inner])
            shape.append((group.prefix, [length - 1 for length in group.lengths if length > 1]))
        read(self.base, torch.cat(embeddings), torch.cat(places, 1), shape, sink=sink, layers=self.layers)
        sizes = [len(part) for part in embeddings]
        by_layer = [[part.split(sizes) for part in pair] for pair in sink]
        for number, (slot, group) in enumerate(groups.items()):
            self._place(slot, group, [[part[number] for part in pair] for pair in by_layer])

    def _place(self, slot: int, group: Group, pairs: list[list[Tensor]]) -> None:
        """`pairs` holds every layer's keys and values (tokens but the branches' last, kv heads, d)."""
        lengths, first = torch.tensor(group.lengths), slot * self.shape.width
        rows = slice(first, first + len(lengths))
        # (branches, longest): where a branch's tokens stand; behind its end another's, which nobody looks at
        starts = group.prefix + (lengths - 1).cumsum(0) - (lengths - 1)
        most = group.prefix + sum(group.lengths) - len(lengths) - 1
        index = (starts[:, None] + torch.arange(int(lengths.max()) - 1)).clamp_max(most)
        for pair, past, own in zip(pairs, self.past, self.own, strict=True):
            for part, kept, mine in zip(pair, past, own, strict=True):
                kept[:, slot, : group.prefix] = part[: group.prefix].transpose(0, 1)
                if index.shape[1]:
                    mine[:, rows, : index.shape[1]] = part[index].permute(2, 0, 1, 3)
        self.beyond[slot] = 0
        self.beyond[slot, ..., group.prefix :] = -torch.inf
        last = group.prefix + lengths.cumsum(0) - 1
        fresh = {
            "tokens": group.ids[last],
            "places": group.places[0, last],
            "filled": lengths - 1,
            "count": 0,
            "alive": 1,
        }
        for name, value in fresh.items():
            getattr(self, name)[rows] = torch.as_tensor(value).to(self.base.device)
        if group.draws is not None:
            self.draws[rows, :-1] = group.draws.to(self.base.device)
        self.who[rows], self.reach[slot] = group.rows, int(lengths.max())

    def advance(self) -> None:
        """One step, by a CUDA graph where one is worth it: nothing in it is copied from or to the host."""
        most = min(max(self.reach), self.shape.room)
        self.reach = [reach + 1 for reach in self.reach]
        if self.base.device.type != "cuda":
            return self.step(most)
        seen = SHORTEST
        while seen < most:
            seen *= 2
        seen = min(seen, self.shape.room)
        self.met[seen] += 1
        if seen not in self.graphs and (self.met[seen] <= WARM or getattr(self.base, "is_quantized", False)):
            return self.step(seen)
        if seen not in self.graphs:
            self.graphs[seen] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[seen]):
                self.step(seen)
        return self.graphs[seen].replay()

    def step(self, seen: int) -> None:
        """A token more for every row that is alive, which may look at its first `seen` own tokens, the new one among
        them; all in place."""
        later = self.forever[:seen] > self.filled[:, None]  # (rows, seen)
        hidden = self.beyond.new_zeros(later.shape).masked_fill_(later, -torch.inf)
        # what `cascade` adds, once more for every key head
        kv = self.layers[0].kv
        hidden, beyond = (part.expand(kv, *part.shape).reshape(-1, 1, part.shape[-1]) for part in (hidden, self.beyond))
        x = self.base.get_input_embeddings()(self.tokens)
        cos, sin = rotation(self.text, self.places.expand(3, -1), x)
        for layer, past, own in zip(self.layers, self.past, self.own, strict=True):

            def attend(query: Tensor, key: Tensor, value: Tensor, past=past, own=own) -> Tensor:
                own[:, :, self.order, self.filled] = torch.stack((key, value)).transpose(1, 2)
                return cascade(query, past, own[..., :seen, :], beyond, hidden, self.seats)

            x = layer(x, cos, sin, attend)
        logits = self.base.lm_head(norm(x, self.text.norm.weight, self.text.norm.variance_epsilon)).float()
        chosen, logps = self._choose(logits.index_fill_(1, self.suppress, -torch.inf))
        self.answers[self.order, self.count], self.logps[self.order, self.count] = chosen, logps
        self.tokens.copy_(chosen)
        for place in (self.places, self.filled, self.count):
            place.add_(self.alive)
        self.alive &= (chosen != self.eos) & (self.count < self.shape.new)

    def _choose(self, logits: Tensor) -> tuple[LongTensor, Tensor]:
        """A token each and its log-probability as it was drawn, (rows,); its logit where nothing is left to chance."""
        if self.temperature == 0:
            best, chosen = logits.max(-1)  # nan, if any is
            return chosen, best
        shares = (logits / self.temperature).softmax(-1)
        cumulative = shares.double().cumsum(-1)
        drawn = self.draws[self.order, self.count][:, None] * cumulative[:, -1:]
        # weights that are not finite give the first token, not an index behind the last: the loss will tell
        chosen = torch.searchsorted(cumulative, drawn, right=True) % logits.shape[1]
        return chosen[:, 0], shares.gather(1, chosen)[:, 0].log()

    def take(self) -> dict[int, tuple[list[int], list[float]]]:
        """The answers of rows that have ended since, with their tokens' log-probabilities, by who they are; here the
        host waits for the device."""
        ended = [row for row, alive in enumerate(self.alive.tolist()) if not alive and self.who[row] >= 0]
        if not ended:
            return {}
        kept = (part[ended].tolist() for part in (self.answers, self.logps, self.count))
        found = zip(ended, *kept, strict=True)
        taken = {self.who[row]: (answer[:count], logps[:count]) for row, answer, logps, count in found}
        for row in ended:
            self.who[row] = -1
        # rows that have ended, and slots that wait for a group, ask for no room
        self.filled[ended] = 0
        self.reach = [reach if rows else 0 for reach, rows in zip(self.reach, self.running(), strict=True)]
        return taken

    def running(self) -> list[list[int]]:
        """The rows of each slot that still go on."""
        found = [[] for _ in range(self.shape.groups)]
        for row, (slot, who) in enumerate(zip(self.slot, self.who, strict=True)):
            if who >= 0:
                found[slot].append(row)
        return found

    def fitted(self, most: float, more: int, waiting: bool) -> "Slots":
        """Room for `more` tokens where there is none, and only the rows that go on as soon as those are at most this
        share of all, unless slots are kept for groups that are `waiting`; else these slots as they are."""
        running = self.running()
        full = max(self.reach) > self.shape.room
        if not full and (waiting or sum(map(len, running)) > most * len(self.who)):
            return self
        slots = [slot for slot, rows in enumerate(running) if rows or waiting]
        rows = [row for row, who in enumerate(self.who) if who >= 0 or waiting]
        width = self.shape.width if waiting else max(map(len, running))
        room = self.shape.room + more * full
        smaller = Slots.__new__(Slots)
        shape = Shape(len(slots), width, self.shape.prefix, room, self.shape.new)
        smaller.__dict__ |= self.__dict__ | {"shape": shape, "graphs": {}, "met": Counter()}
        device, used = self.base.device, min(max(self.reach), self.shape.room)
        at = torch.tensor(rows, device=device)
        smaller.past = [part[:, :, slots] for part in self.past]
        smaller.own = [own.new_zeros(*own.shape[:2], len(rows), room, own.shape[4]) for own in self.own]
        for new, own in zip(smaller.own, self.own, strict=True):
            new[..., :used, :] = own[:, :, at, :used]
        for name in self.ROWS:
            setattr(smaller, name, getattr(self, name)[at])
        smaller.beyond, smaller.order = self.beyond[slots], self.order[: len(rows)].clone()
        smaller.forever = torch.arange(room, device=device)
        smaller.slot = [slots.index(self.slot[row]) for row in rows]
        smaller.who, smaller.reach = [self.who[row] for row in rows], [self.reach[slot] for slot in slots]
        smaller.seats = None
        if len(rows) < len(slots) * width:
            places = [slot * width + row - smaller.slot.index(slot) for row, slot in enumerate(smaller.slot)]
            table = torch.zeros(len(slots) * width, dtype=torch.long, device=device)
            table[places] = smaller.order
            smaller.seats = torch.tensor(places, device=device), table
        return smaller


def cascade(
    query: Tensor, past: Tensor, own: Tensor, beyond: Tensor, hidden: Tensor, seats: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attention of one token a row over [the prefix of its group | its own tokens], every prefix's keys read once for
    all rows of the group.

    `query` (rows, heads, d); keys and values in `past` (2, kv heads, groups, prefix, d) and `own` (2, kv heads, rows,
    m, d); what is added to their scores, `beyond` (kv heads * groups, 1, prefix) and `hidden` (kv heads * rows, 1, m)
    -> (rows, heads, d). Groups of the same size lie in a table (groups, width) as they come; of others `seats` says
    where in it each row has its place (rows,), and which row each place has (groups * width,), any where none."""
    (_, kv, groups, prefix, d), (rows, m) = past.shape, own.shape[2:4]
    # (kv, rows, q, d) with the q queries that share a key head: one product a key head and group for the prefix, one a
    # key head and row for its own tokens
    folded = query.view(rows, kv, -1, d).transpose(0, 1).contiguous()
    q, scale, row, place = folded.shape[2], d**-0.5, 0, 1

    def by(part: Tensor, what: int) -> Tensor:
        return part if seats is None else part.index_select(1, seats[what])

    near = torch.baddbmm(hidden, folded.view(-1, q, d), own[0].flatten(0, 1).transpose(1, 2), alpha=scale)
    table = by(folded, place).view(kv * groups, -1, d)
    far = torch.baddbmm(beyond, table, past[0].flatten(0, 1).transpose(1, 2), alpha=scale).view(kv, -1, q, prefix)
    shares = torch.cat((far, by(near.view(kv, rows, q, m), place)), -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    far, near = shares.split((prefix, m), -1)
    mixed = by(torch.bmm(far.reshape(kv * groups, -1, prefix), past[1].flatten(0, 1)).view(kv, -1, q, d), row)
    mixed = torch.baddbmm(mixed.reshape(-1, q, d), by(near, row).reshape(-1, q, m), own[1].flatten(0, 1))
    return mixed.view(kv, rows, q, d).transpose(0, 1).reshape(query.shape)
