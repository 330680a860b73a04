"""Language steps: several questions on one video share its tokens in one row; losses on answers and on attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb

from vsr import paper
from vsr.engine.inputs import positions
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.corpus import Item, numbers
from vsr.miniature.rooms import GEOMETRY, NAMED, VALUES, VIEWS, Labels, geometry
from vsr.miniature.vision import GRID as PATCHES
from vsr.models.folders import END

GRID = torch.tensor([[VIEWS, *PATCHES]])
# Layers that are taught to look at objects, to bring them together, to compare them, to look at the chosen one.
RETRIEVE, COLLECT, DERIVE, CHOOSE = 0, 1, 3, 4
TAUGHT_HEADS = 2
# Counting: attention is a mean, so one head that looks at all chairs cannot tell two from four. Here every head has a
# sector of the turn to itself and looks at the first token where its sector has none: what the heads bring adds up.
# By layer, its first head and sector.
TALLY = {0: (2, 0), 1: (0, 4), 2: (0, 10)}
TOLD = max(TALLY)  # the layer behind which the count is known
BLUR = 0.1  # standard deviation of a number's target, in its logarithm
IGNORE = -1
BEFORE_RESPONSE = f"{END}\n<|im_start|>assistant\n"


@dataclass
class QuestionBatch:
    """B rooms with their Q questions packed behind one prefix each, L tokens a row; M categories are named in them.

    A place is a row and a column. IGNORE stands where there is none."""

    ids: Tensor  # (B, L)
    features: Tensor  # (B, video tokens, D)
    positions: Tensor  # (3, B, L)
    mask: Tensor  # (B, 1, L, L), true where attended
    place: Tensor  # (T, 2), of what predicts `target`
    target: Tensor  # (T,)
    named: Tensor  # (M, 2), place of a category's word
    holds: Tensor  # (M, video tokens), whether the category belongs to a video token
    times: Tensor  # (M,), how often it occurs
    values: Tensor  # (M, 10), nan unless that is once
    last: Tensor  # (Q, 2), place of what predicts the answer: a prompt's last token, or the answer's tag
    mention: Tensor  # (Q, NAMED), columns of the categories of a question
    chosen: Tensor  # (Q, L), where in the prompt the answer stands


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
        self.tag = tokenizer.convert_tokens_to_ids("<answer>")
        self.category = torch.full((len(tokenizer),), IGNORE)
        self.category[tokenizer.convert_tokens_to_ids(list(CATALOGUE))] = torch.arange(len(CATALOGUE))

    def prompt(self, item: Item) -> Tensor:
        """Token ids (tokens,) of a whole prompt."""
        text = item.prompt + BEFORE_RESPONSE
        return torch.cat([self.prefix, torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"])])

    def pack(self, rooms: Sequence[int], asked: Sequence[Sequence[Item]], features: Tensor) -> QuestionBatch:
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
        place_of, targets, named, last, mention, chosen = ([] for _ in range(6))
        for row, branch in enumerate(branches):
            ids[row, :start] = self.prefix
            place[:, row, :start] = self.place
            owner[row, :start] = -1
            at = start
            for number, (prompt, answer) in enumerate(branch):
                tokens = torch.tensor(prompt + answer[:-1])
                end = at + len(tokens)
                ids[row, at:end] = tokens
                owner[row, at:end] = number
                place[:, row, at:end] = self.place[:, -1:] + 1 + torch.arange(len(tokens))
                final = at + len(prompt) - 1
                place_of += [(row, final + k) for k in range(len(answer))]
                targets += answer
                # behind a thought the answer is found as without one
                begin = answer.index(self.tag) + 1 if self.tag in answer else 0
                last.append((row, final + begin))
                spots = [at + k for k, token in enumerate(prompt) if self.category[token] >= 0]
                mention.append((spots + [IGNORE] * NAMED)[:NAMED])
                named += [(row, spot) for spot in spots]
                named += [(row, final + 1 + k) for k, token in enumerate(answer) if self.category[token] >= 0]
                stands = torch.zeros(length, dtype=torch.bool)
                for k, token in enumerate(prompt):
                    if token == answer[begin] and answer[begin] not in self.letters:
                        stands[at + k] = True
                    elif token == answer[begin] and prompt[k + 1] == self.dot:
                        # a letter: the words behind it, which know of it
                        stands[at + k + 2] = True
                chosen.append(stands)
                at = end
        # a question sees the shared prefix (owner -1) and itself, never the questions beside it
        same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -1)
        mask = same & torch.ones(length, length, dtype=torch.bool).tril()
        mask |= torch.eye(length, dtype=torch.bool)
        at = torch.tensor(named).view(-1, 2)
        holds, times, values = self._truth(rooms, ids, at)
        return QuestionBatch(
            ids, features, place, mask[:, None], torch.tensor(place_of), torch.tensor(targets),
            at, holds, times, values, torch.tensor(last), torch.tensor(mention), torch.stack(chosen),
        )  # fmt: skip

    def _truth(self, rooms: Sequence[int], ids: Tensor, named: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        room = torch.as_tensor(np.asarray(rooms))[named[:, 0]]
        category = self.category[ids[named[:, 0], named[:, 1]]]
        match = (self.labels.kind[room] == category[:, None]) & (self.labels.home[room] >= 0)
        holds = torch.zeros(len(named), self.labels.tokens)
        holds.scatter_add_(1, self.labels.home[room].clamp(min=0), match.float())
        value = (self.labels.values[room] * match[..., None]).sum(1)
        times = match.sum(1)
        # two chairs have no one place: what the label sums over them means nothing
        value[times != 1] = float("nan")
        return holds > 0, times, value


class Probes(nn.Module):
    """Read-outs from the language model's inside, for pre-training only: what a category's word has found, and what the
    last token of the prompt has collected."""

    def __init__(self, width: int):
        super().__init__()
        self.found = nn.Linear(width, len(VALUES))
        self.counted = nn.Linear(width, 1)
        self.collected = nn.Linear(width, NAMED * 2)
        self.derived = nn.Linear(width, len(GEOMETRY))


class Objective:
    """The losses of a language step; `video` is the place of the first video token."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, video: int):
        self.model, self.video = model, video
        self.probes = Probes(model.config.text_config.hidden_size)
        # whole ones, then decimals: ids (M,), targets (M, M), row of a token (vocabulary,)
        self.numbers = []
        for decimal in (False, True):
            ids, log = numbers(tokenizer, decimal)
            soft = torch.softmax(-((log[:, None] - log) ** 2) / (2 * BLUR**2), dim=-1)
            row_of = torch.full((len(tokenizer),), IGNORE)
            row_of[ids] = torch.arange(len(ids))
            self.numbers.append((ids, soft, row_of))

    def __call__(self, batch: QuestionBatch) -> dict[str, Tensor]:
        """Losses by name: of the answer, of attention (retrieve, collect, choose), of probes (the rest)."""
        text = self.model.model.language_model
        hidden = text.embed_tokens(batch.ids)
        count = batch.features.shape[1]
        hidden = torch.cat([hidden[:, : self.video], batch.features, hidden[:, self.video + count :]], 1)
        rope = text.rotary_emb(hidden, batch.positions)
        at = batch.named
        last = batch.last
        column = torch.arange(batch.ids.shape[1])
        tokens = (column >= self.video) & (column < self.video + count)
        places = _places(batch)
        losses = {}
        # the words that stand alone in a question, as those do that are to be counted, and who reads them
        alone = (batch.mention[:, 1] == IGNORE) & (batch.mention[:, 0] != IGNORE)
        words_of, tally = torch.stack([batch.last[alone, 0], batch.mention[alone, 0]], 1), []
        sectors = _sectors(batch, words_of, self.video)
        for number, layer in enumerate(text.layers):
            # Attention is taught by what a head should look at, (M, heads or 1, L).
            if number == RETRIEVE:  # from a category's word at its video tokens
                seen = batch.holds.any(1)
                wanted = hidden.new_zeros(int(seen.sum()), 1, len(column))
                wanted[:, 0, tokens] = batch.holds[seen].float()
                losses["retrieve"] = _missed(attention(layer, hidden, rope, at[seen], batch.mask, TAUGHT_HEADS), wanted)
            if number in TALLY:  # from a word that is counted: every head at what its sector holds, or at nothing
                first, sector = TALLY[number]
                found = attention(layer, hidden, rope, words_of, batch.mask, None)[:, first:]
                tally.append(_missed(found, sectors[:, sector : sector + found.shape[1]]))
            if number == COLLECT:  # from the prompt's last token: head i at the i-th category
                wanted = (column == batch.mention[..., None]).float()
                losses["collect"] = _missed(attention(layer, hidden, rope, last, batch.mask, NAMED), wanted)
            if number == TOLD + 1:  # again, once the word knows how many
                wanted = (column == batch.mention[alone, :1, None]).float()
                losses["recall"] = _missed(
                    attention(layer, hidden, rope, last[alone], batch.mask, TAUGHT_HEADS), wanted
                )
            # from the prompt's last token at the answer, where it stands in the prompt
            if number == CHOOSE:
                stands = batch.chosen.any(1)
                wanted = batch.chosen[stands][:, None].float()
                losses["choose"] = _missed(
                    attention(layer, hidden, rope, last[stands], batch.mask, TAUGHT_HEADS), wanted
                )
            hidden = layer(hidden, attention_mask=batch.mask, position_embeddings=rope)
            words = hidden[at[:, 0], at[:, 1]]
            end = hidden[last[:, 0], last[:, 1]]
            if number == RETRIEVE:
                losses["found"] = _close(self.probes.found(words), batch.values)
            if number == TOLD:
                losses["counted"] = _close(self.probes.counted(words)[:, 0], batch.times.float())
            if number == COLLECT:
                losses["inside"] = _close(self.probes.collected(end), places.flatten(1))
            if number == DERIVE:
                losses["derived"] = _close(self.probes.derived(end), geometry(places))
        losses["tally"] = torch.stack(tally).mean()
        hidden = text.norm(hidden)[batch.place[:, 0], batch.place[:, 1]]
        losses["answer"] = self._answer(self.model.lm_head(hidden), batch.target)
        return losses

    def _answer(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy; a number's target is spread over its neighbours."""
        logp = F.log_softmax(logits, dim=-1)
        loss = -logp.gather(1, target[:, None])[:, 0]
        for ids, soft, row in self.numbers:
            rows = row[target]
            number = rows >= 0
            if number.any():
                spread = -(logp[number][:, ids] * soft[rows[number]]).sum(1)
                loss = loss.masked_scatter(number, spread)
        return loss.mean()


def _missed(weights: Tensor, wanted: Tensor) -> Tensor:
    """How little attention (M, heads, L) goes where it is wanted (0 or 1); rows that want nothing do not count."""
    found = (weights * wanted).sum(-1)
    counts = (wanted.sum(-1) > 0).expand_as(found)
    return -torch.log(found + 1e-6)[counts].mean() if counts.any() else found.sum() * 0


def _sectors(batch: QuestionBatch, words: Tensor, video: int) -> Tensor:
    """Where each sector's head should look for the words at places (M, 2): (M, sectors, L), 1 at the tokens in the
    sector that hold the category, or at the first token of all. A sector is one column of video tokens in one view."""
    row = torch.zeros_like(batch.ids)
    row[batch.named[:, 0], batch.named[:, 1]] = torch.arange(len(batch.named))
    holds = batch.holds[row[words[:, 0], words[:, 1]]].float()  # (M, video tokens)
    token = torch.arange(holds.shape[1])
    view, columns = token // (holds.shape[1] // VIEWS), PATCHES[1] // 2
    sector = F.one_hot(view * columns + token % columns).float()  # (video tokens, sectors)
    wanted = torch.zeros(len(words), sector.shape[1], batch.ids.shape[1])
    wanted[:, :, video : video + len(token)] = holds[:, None] * sector.T
    wanted[:, :, 0] = (wanted.sum(2) == 0).float()
    return wanted


def _places(batch: QuestionBatch) -> Tensor:
    """Where the categories are that a question names, (Q, NAMED, 2); nan where there is none or several."""
    row = torch.zeros_like(batch.ids)  # (B, L): which row of `named` a token is
    row[batch.named[:, 0], batch.named[:, 1]] = torch.arange(len(batch.named))
    places = batch.values[row[batch.last[:, :1].expand_as(batch.mention), batch.mention.clamp(min=0)], :2]
    return places.masked_fill((batch.mention == IGNORE)[..., None], float("nan"))


def _close(read: Tensor, truth: Tensor) -> Tensor:
    known = ~truth.isnan()
    return F.smooth_l1_loss(read[known], truth[known], beta=0.1)


def attention(layer: nn.Module, hidden: Tensor, rope: tuple, at: Tensor, mask: Tensor, heads: int | None) -> Tensor:
    """Attention weights (M, heads, L) of a layer's first heads at the query places `at` (M, 2), row and column."""
    attn, normed = layer.self_attn, layer.input_layernorm(hidden)
    size, group = attn.head_dim, attn.num_key_value_groups
    rows, columns = at.unbind(1)
    cos, sin = rope
    # no rows are allowed
    q = attn.q_proj(normed[rows, columns]).unflatten(-1, (-1, size))[:, :heads]
    # queries at the few places asked for, keys everywhere: the layer's own weights are never kept by sdpa
    k = attn.k_proj(normed).view(*hidden.shape[:2], -1, size)[:, :, [head // group for head in range(q.shape[1])]]
    q, _ = apply_rotary_pos_emb(q, q, cos[rows, columns], sin[rows, columns])
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=2)
    scores = torch.einsum("mhd,mlhd->mhl", q, k[rows]) * attn.scaling
    return scores.masked_fill(~mask[rows, 0, columns][:, None], float("-inf")).softmax(-1)
