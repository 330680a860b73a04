"""Language steps: several questions on one video share its tokens in one row; losses on answers and on attention."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb

from vsr import paper
from vsr.engine.inputs import positions
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.corpus import Item
from vsr.miniature.labels import VALUES, VIEWS, Labels
from vsr.miniature.tokenizer import numbers
from vsr.models.folders import END

GRID = torch.tensor([[VIEWS, 4, 6]])
NAMED = 5  # categories of a question that get a head of their own
# Layers that are taught to look at objects, to bring them together, to compare them, to look at the chosen one.
RETRIEVE, COLLECT, DERIVE, CHOOSE = 0, 1, 3, 4
TAUGHT_HEADS = 2
GEOMETRY = ("log_distance", "cos_turn", "sin_turn", *(f"log_distance_{i}" for i in range(NAMED - 1)))
BLUR = 0.1  # standard deviation of a number's target, in its logarithm
IGNORE = -1
BEFORE_RESPONSE = f"{END}\n<|im_start|>assistant\n"


@dataclass
class Batch:
    """B rooms with their questions packed behind one prefix each, L tokens a row.

    `ids` (B, L); `features` (B, video tokens, D); `positions` (3, B, L); `mask` (B, 1, L, L), true where attended.
    `place` (T, 2), row and column of what predicts `target` (T,). For M categories named in questions: `named` (M, 2)
    row and column, `holds` (M, video tokens) whether the category belongs to a video token, `times` (M,) how often it
    occurs, `values` (M, 10), nan unless that is once. For Q questions: `last` (Q, 2), `mention` (Q, NAMED) columns of
    the categories, IGNORE if fewer, and `chosen` (Q, L), where in the prompt the answer stands.
    """

    ids: Tensor
    features: Tensor
    positions: Tensor
    mask: Tensor
    place: Tensor
    target: Tensor
    named: Tensor
    holds: Tensor
    times: Tensor
    values: Tensor
    last: Tensor
    mention: Tensor
    chosen: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class Packer:
    """Turns questions about rooms into batches."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, labels: Labels):
        self.tokenizer, self.labels = tokenizer, labels
        chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": f"{paper.HARNESS_PRE}\n"}]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        head = text[: text.rindex("<|im_end|>")].replace("<|video_pad|>", "<|video_pad|>" * labels.tokens)
        self.prefix = torch.tensor(tokenizer(head)["input_ids"])
        self.place = positions(model, self.prefix, GRID)
        self.video = int((self.prefix == model.config.video_token_id).nonzero()[0])
        self.letters = set(tokenizer.convert_tokens_to_ids(list("ABCD")))
        self.dot = tokenizer.convert_tokens_to_ids(". ")
        self.category = torch.full((len(tokenizer),), IGNORE)
        self.category[tokenizer.convert_tokens_to_ids(list(CATALOGUE))] = torch.arange(len(CATALOGUE))

    def prompt(self, item: Item) -> Tensor:
        """Token ids (tokens,) of a whole prompt."""
        text = item.prompt + BEFORE_RESPONSE
        return torch.cat([self.prefix, torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"])])

    def pack(self, rooms: Sequence[int], asked: Sequence[Sequence[Item]], features: Tensor) -> Batch:
        """The batch of some rooms' items; `features` (B, video tokens, D)."""
        start = len(self.prefix)
        texts = [item.prompt + BEFORE_RESPONSE for items in asked for item in items]
        responses = [item.response + END for items in asked for item in items]
        prompts = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        answers = iter(self.tokenizer(responses, add_special_tokens=False)["input_ids"])
        branches = [[(next(prompts), next(answers)) for _ in items] for items in asked]
        length = start + max(sum(len(p) + len(a) - 1 for p, a in row) for row in branches)
        count = len(rooms)
        ids = torch.zeros(count, length, dtype=torch.long)
        place = torch.zeros(3, count, length, dtype=torch.long)
        owner = torch.full((count, length), -2)
        place_of, targets, named, last, mention, chosen = [], [], [], [], [], []
        for row, branch in enumerate(branches):
            ids[row, :start], place[:, row, :start], owner[row, :start] = self.prefix, self.place, -1
            at = start
            for number, (prompt, answer) in enumerate(branch):
                tokens = torch.tensor(prompt + answer[:-1])
                end = at + len(tokens)
                ids[row, at:end], owner[row, at:end] = tokens, number
                place[:, row, at:end] = self.place[:, -1:] + 1 + torch.arange(len(tokens))
                final = at + len(prompt) - 1
                place_of += [(row, final + k) for k in range(len(answer))]
                targets += answer
                last.append((row, final))
                spots = [at + k for k, token in enumerate(prompt) if self.category[token] >= 0]
                mention.append((spots + [IGNORE] * NAMED)[:NAMED])
                named += [(row, spot) for spot in spots]
                chosen.append([at + k for k in self._standing(prompt, answer[0])])
                at = end
        same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -1)
        mask = same & torch.ones(length, length, dtype=torch.bool).tril()
        mask |= torch.eye(length, dtype=torch.bool)
        stands = torch.zeros(len(chosen), length, dtype=torch.bool)
        for question, columns in enumerate(chosen):
            stands[question, columns] = True
        holds, times, values = self._truth(rooms, ids, torch.tensor(named).view(-1, 2))
        return Batch(
            ids, features, place, mask[:, None], torch.tensor(place_of), torch.tensor(targets),
            torch.tensor(named).view(-1, 2), holds, times, values, torch.tensor(last), torch.tensor(mention),
            stands,
        )  # fmt: skip

    def _standing(self, prompt: list[int], answer: int) -> list[int]:
        """Where an answer's first token stands in a prompt; for a letter, the words behind it, which know of it."""
        at = [k for k, token in enumerate(prompt) if token == answer]
        if answer in self.letters:
            return [k + 2 for k in at if prompt[k + 1] == self.dot]
        return at

    def _truth(self, rooms: Sequence[int], ids: Tensor, named: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        room = torch.as_tensor(np.asarray(rooms))[named[:, 0]]
        category = self.category[ids[named[:, 0], named[:, 1]]]
        match = (self.labels.kind[room] == category[:, None]) & (self.labels.home[room] >= 0)
        holds = torch.zeros(len(named), self.labels.tokens)
        holds.scatter_add_(1, self.labels.home[room].clamp(min=0), match.float())
        value = (self.labels.values[room] * match[..., None]).sum(1)
        times = match.sum(1)
        value[times != 1] = float("nan")
        return holds > 0, times, value


class Probes(nn.Module):
    """Read-outs from the language model's inside, for pre-training only: what a category's word has found, and what the
    last token of the prompt has collected."""

    def __init__(self, width: int):
        super().__init__()
        self.found = nn.Linear(width, len(VALUES))
        self.counted = nn.Linear(width, 1)
        self.collected = nn.Linear(width, NAMED * 2 + 1)
        self.derived = nn.Linear(width, len(GEOMETRY))


class Objective(nn.Module):
    """The losses of a language step."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, video: int):
        super().__init__()
        self.model, self.video = [model], video
        self.probes = Probes(model.config.text_config.hidden_size)
        table = []
        for decimal in (False, True):
            ids, log = numbers(tokenizer, decimal)
            soft = torch.softmax(-((log[:, None] - log) ** 2) / (2 * BLUR**2), dim=-1)
            row_of = torch.full((len(tokenizer),), IGNORE)
            row_of[ids] = torch.arange(len(ids))
            table += [ids, soft, row_of]
        for name, tensor in zip(("ids0", "soft0", "row0", "ids1", "soft1", "row1"), table, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name: answer, retrieve, collect (attention), found, inside (probes)."""
        model = self.model[0]
        text = model.model.language_model
        hidden = text.embed_tokens(batch.ids)
        count = batch.features.shape[1]
        hidden = torch.cat([hidden[:, : self.video], batch.features, hidden[:, self.video + count :]], 1)
        rope = text.rotary_emb(hidden, batch.positions)
        losses = {}
        for number, layer in enumerate(text.layers):
            if number == RETRIEVE:
                losses["retrieve"] = self._retrieve(layer, hidden, rope, batch)
            if number == COLLECT:
                losses["collect"] = self._collect(layer, hidden, rope, batch)
            if number == CHOOSE:
                losses["choose"] = self._choose(layer, hidden, rope, batch)
            hidden = layer(hidden, attention_mask=batch.mask, position_embeddings=rope)
            if number == RETRIEVE:
                told = self.probes.counted(hidden[batch.named[:, 0], batch.named[:, 1]])[:, 0]
                losses["counted"] = F.smooth_l1_loss(told, batch.times.float(), beta=0.1)
                known = ~batch.values[:, 0].isnan()
                at = batch.named[known]
                losses["found"] = F.smooth_l1_loss(
                    self.probes.found(hidden[at[:, 0], at[:, 1]]), batch.values[known], beta=0.1
                )
            if number == COLLECT:
                places = self._places(batch)
                wanted = torch.cat([places.flatten(1), self._several(batch)], 1)
                losses["inside"] = _close(self._read(self.probes.collected, hidden, batch), wanted)
            if number == DERIVE:
                losses["derived"] = _close(self._read(self.probes.derived, hidden, batch), geometry(places))
        hidden = text.norm(hidden)[batch.place[:, 0], batch.place[:, 1]]
        losses["answer"] = self._answer(model.lm_head(hidden), batch.target)
        return losses

    def _answer(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy; a number's target is spread over its neighbours."""
        logp = F.log_softmax(logits, dim=-1)
        loss = -logp.gather(1, target[:, None])[:, 0]
        for ids, soft, row in ((self.ids0, self.soft0, self.row0), (self.ids1, self.soft1, self.row1)):
            rows = row[target]
            number = rows >= 0
            if number.any():
                spread = -(logp[number][:, ids] * soft[rows[number]]).sum(1)
                loss = loss.masked_scatter(number, spread)
        return loss.mean()

    def _retrieve(self, layer: nn.Module, hidden: Tensor, rope: tuple, batch: Batch) -> Tensor:
        """How little the first heads look from a category's word at its video tokens."""
        seen = batch.holds.any(1)
        at = batch.named[seen]
        weights = attention(layer, hidden, rope, at, batch.mask, range(TAUGHT_HEADS))
        count = batch.features.shape[1]
        found = (weights[..., self.video : self.video + count] * batch.holds[seen][:, None]).sum(-1)
        return -torch.log(found + 1e-6).mean()

    def _choose(self, layer: nn.Module, hidden: Tensor, rope: tuple, batch: Batch) -> Tensor:
        """How little the first heads look from the last token of the prompt at the answer, where it stands in it."""
        stands = batch.chosen.any(1)
        if not stands.any():
            return hidden.new_zeros(())
        weights = attention(layer, hidden, rope, batch.last[stands], batch.mask, range(TAUGHT_HEADS))
        found = (weights * batch.chosen[stands][:, None]).sum(-1)
        return -torch.log(found + 1e-6).mean()

    def _collect(self, layer: nn.Module, hidden: Tensor, rope: tuple, batch: Batch) -> Tensor:
        """How little head i looks from the last token of the prompt at the i-th category."""
        weights = attention(layer, hidden, rope, batch.last, batch.mask, range(NAMED))
        found = weights.gather(2, batch.mention.clamp(min=0)[..., None])[..., 0]
        return -torch.log(found + 1e-6)[batch.mention >= 0].mean()

    @staticmethod
    def _read(probe: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        return probe(hidden[batch.last[:, 0], batch.last[:, 1]])

    @classmethod
    def _places(cls, batch: Batch) -> Tensor:
        """Where the categories are that a question names, (Q, NAMED, 2); nan where there is none or several."""
        places = batch.values[cls._mentioned(batch), :2]
        return places.masked_fill((batch.mention == IGNORE)[..., None], float("nan"))

    @classmethod
    def _several(cls, batch: Batch) -> Tensor:
        """How often the first category occurs that a question names, about unit scale, (Q, 1); nan unless it occurs
        several times, which is what questions of number ask about."""
        times = batch.times[cls._mentioned(batch)[:, :1]].float()
        none = (batch.mention[:, :1] == IGNORE) | (times < 2)
        return ((times - 3) / 2).masked_fill(none, float("nan"))

    @staticmethod
    def _mentioned(batch: Batch) -> Tensor:
        """The rows of `named` that a question's mentions are, (Q, NAMED); the first row where there is no mention."""
        at = torch.full(batch.ids.shape, 0, device=batch.ids.device)
        at[batch.named[:, 0], batch.named[:, 1]] = torch.arange(len(batch.named), device=at.device)
        return at[batch.last[:, :1].expand_as(batch.mention), batch.mention.clamp(min=0)]


def geometry(places: Tensor) -> Tensor:
    """GEOMETRY (Q, 7) of the places (Q, NAMED, 2) that a question names: the distance of the first two; the turn at the
    first from the second to the third, where three or four are named; distances to the fifth. nan where undefined."""
    first = (places[:, 1] - places[:, 0]).norm(dim=-1).log()
    front, side = places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]
    scale = front.norm(dim=-1) * side.norm(dim=-1) + 1e-6
    cos = (front * side).sum(-1) / scale
    sin = (front[:, 0] * side[:, 1] - front[:, 1] * side[:, 0]) / scale
    five = ~places[:, 4, 0].isnan()
    turn = torch.stack([cos, sin], 1).masked_fill(five[:, None], float("nan"))
    others = (places[:, :-1] - places[:, -1:]).norm(dim=-1).clamp(min=1e-3).log()
    return torch.cat([first.masked_fill(five, float("nan"))[:, None], turn, others], 1)


def _close(read: Tensor, truth: Tensor) -> Tensor:
    known = ~truth.isnan()
    return F.smooth_l1_loss(read[known], truth[known], beta=0.1)


def attention(layer: nn.Module, hidden: Tensor, rope: tuple, at: Tensor, mask: Tensor, heads: Sequence[int]) -> Tensor:
    """Attention weights (M, heads, L) of some heads of a layer at the query places `at` (M, 2), row and column."""
    attn, normed = layer.self_attn, layer.input_layernorm(hidden)
    size, group = attn.head_dim, attn.num_key_value_groups
    rows, columns = at.unbind(1)
    cos, sin = rope
    q = attn.q_proj(normed[rows, columns]).view(len(at), -1, size)[:, list(heads)]
    k = attn.k_proj(normed).view(*hidden.shape[:2], -1, size)[:, :, [head // group for head in heads]]
    q, _ = apply_rotary_pos_emb(q, q, cos[rows, columns], sin[rows, columns])
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=2)
    scores = torch.einsum("mhd,mlhd->mhl", q, k[rows]) * attn.scaling
    return scores.masked_fill(~mask[rows, 0, columns][:, None], float("-inf")).softmax(-1)
