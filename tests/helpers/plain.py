"""What a run computes, written out in numpy and plain PyTorch from the papers and the documentation: nothing
here imports the code that it is to judge. B batch, L tokens, D channels, N states.

A recipe is `Keys`, "section.key" -> value. Weights are named as in model.safetensors.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Keys = dict[str, Any]
Weights = dict[str, Tensor]
Batch = dict[str, tuple[Tensor, Tensor]]  # stream -> tokens (B, L, D); lengths (B,)
ABSENT = -1  # the length of a row that does not have the stream
Routes = dict[str, list[str]]  # target -> the streams that reach it
SSM_HEADS = ("mambavl", "bidirectional", "cross", "mixture", "deep")  # those that read [fusion]
DEFAULTS: dict[str, Keys] = {
    "head": {
        "name": "mambavl", "d_model": 768, "dropout": 0.3, "input_norm": True, "video_mlp_layers": 2,
        "text_mlp_layers": 2, "question_routing": "per_question",
    },
    "mambavl": {
        "fusion.mixer": "mamba", "fusion.d_state": 16, "fusion.d_conv": 4, "fusion.expand": 2,
        "fusion.share": "A", "fusion.zoh": False, "fusion.pad_text_to": 0, "fusion.init": "mamba",
        "fusion.pre_logits": False,
    },
    "bidirectional": {},
    "cross": {"cross.gated": False},
    "mixture": {"mixture.matrices": 4},
    "deep": {"deep.layers": 2},
    "mlp": {},
    "transformer": {
        "transformer.depth": 6, "transformer.num_heads": 4, "transformer.tokens": "all",
        "transformer.max_positions": 5000, "transformer.block_dropout": 0.1,
    },
    "attentive": {"attentive.depth": 1, "attentive.num_heads": 16, "attentive.max_positions": 0},
    "train": {
        "epochs": 30, "batch_size": 128, "optimizer": "adamw", "lr": 1e-3, "lr_ssm": 3e-3, "lr_start": 1e-6,
        "lr_end": 1e-5, "warmup_epochs": 2.0, "cosine_after_warmup": True,
        "momentum": 0.9, "weight_decay": 0.05, "decay_all": False,
        "label_smoothing": 0.1, "clip_norm": 1.0, "ema": 0.0, "seed": 0, "order_seed": None,
        "precision": "auto", "drop_streams": {}, "stop_after": None, "feature_dropout": {}, "mixup": 0.0,
    },
    "default": {},
    "paper": {
        "fusion.mixer": "plain", "fusion.zoh": True, "head.input_norm": False, "head.dropout": 0.0,
    },
    "released": {
        "head.video_mlp_layers": 0, "head.text_mlp_layers": 3, "head.input_norm": False,
        "fusion.pad_text_to": 40, "fusion.init": "released", "head.dropout": 0.0,
    },
}  # fmt: skip


def resolved(given: Keys) -> Keys:
    """All keys: those given, else what the preset says, else the default."""
    head = given.get("head.name", "mambavl")
    common = {f"{section}.{key}": v for section in ("head", "train") for key, v in DEFAULTS[section].items()}
    own = DEFAULTS["mambavl"] if head in SSM_HEADS else {}
    return common | own | DEFAULTS[head] | DEFAULTS[given.get("fusion.preset", "default")] | given


# --- training


def train(keys: Keys, weights: Weights, data: "Data") -> Weights:
    """The weights after training: `weights` are those it starts from. In their precision, of matrix products
    too, but where the recipe says bf16.
    """
    k = resolved(keys)
    weights = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    state = {name: [torch.zeros_like(weight), torch.zeros_like(weight)] for name, weight in weights.items()}
    per_epoch, history, measured = math.ceil(len(data.train) / k["train.batch_size"]), [], []
    for update in range(k["train.epochs"] * per_epoch):
        epoch, number = divmod(update, per_epoch)
        order = np.random.default_rng([order_seed(k), epoch]).permutation(data.train)
        rows = order[number * k["train.batch_size"] :][: k["train.batch_size"]]
        drop_keys, shares = keys_of_rows(k["train.seed"], epoch, rows), shares_of(k, epoch, rows, data)
        with torch.autocast("cpu", torch.bfloat16, enabled=k["train.precision"] == "bf16"):
            batch = without_channels(k, data.batch(k, rows, epoch), keys_of_rows(order_seed(k), epoch, rows))
            logits = forward(k, weights, batch, drop_keys, shares)
        losses = []
        for target, of_rows in logits.items():
            labels, weight = data.labels[target][rows], k.get(f"targets.{target}.weight", 1.0)
            own = cost(k, target, of_rows.to(data.dtype), labels)
            if shares is not None:
                of_partner = cost(k, target, of_rows.to(data.dtype), labels[partner(len(rows))])
                own = shares * own + (1 - shares) * of_partner
            losses.append(weight * own.mean())
        gradients = dict(zip(weights, torch.autograd.grad(sum(losses), list(weights.values())), strict=True))
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
        clip = k["train.clip_norm"]
        factor = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        with torch.no_grad():
            for name, weight in weights.items():
                peak = k["train.lr_ssm"] if is_ssm(name) else k["train.lr"]
                lr = peak / k["train.lr"] * rate(update / per_epoch, k)
                decay = k["train.weight_decay"] if k["train.decay_all"] or decays(name, weight) else 0.0
                gradient = gradients[name] * factor
                if k["train.optimizer"] == "sgd":
                    sgd_step(weight, gradient, state[name], lr, decay, k["train.momentum"])
                else:
                    adamw_step(weight, gradient, state[name], lr, decay, update + 1)
        history.append({name: weight.detach().clone() for name, weight in weights.items()})
        if k["train.stop_after"] and number == per_epoch - 1:
            measured.append(accuracy(k, averaged(history, k["train.ema"]), data))
            best = measured.index(max(measured))  # the first of equals
            if len(measured) - 1 - best >= k["train.stop_after"]:
                break
    return averaged(history, k["train.ema"])


def averaged(history: list[Weights], decay: float) -> Weights:
    """The mean of the weights after every update, each counting `decay` times the one after it."""
    counts = [decay ** (len(history) - 1 - i) for i in range(len(history))]  # of decay 0: the last alone
    pairs = list(zip(counts, history, strict=True))
    return {name: sum(c * weights[name] for c, weights in pairs) / sum(counts) for name in history[0]}


@torch.no_grad()
def accuracy(k: Keys, w: Weights, data: "Data") -> float:
    """The share of held-out rows of which verb and noun both have the largest mean probability over views."""
    k = k | {"head.dropout": 0.0, "transformer.block_dropout": 0.0, "train.drop_streams": {}}
    sums: Weights = {}
    for view in range(data.video.shape[1]):
        batch = data.seen(k, data.held, np.full(len(data.video), view), 0)
        for target, logits in forward(k, w, batch, keys_of_rows(0, 0, data.held)).items():
            sums[target] = sums.get(target, 0) + logits.softmax(-1)
    hits = [p.argmax(-1) == data.labels[target][data.held] for target, p in sums.items()]
    return float(torch.stack(hits).all(0).double().mean())


def rate(epoch: float, k: Keys) -> float:
    """At a fractional epoch: a straight line up, then half a cosine down."""
    peak, start, end = k["train.lr"], k["train.lr_start"], k["train.lr_end"]
    if not k["train.cosine_after_warmup"]:
        on_cosine = lambda e: end + (peak - end) * 0.5 * (1 + math.cos(math.pi * e / k["train.epochs"]))
        if epoch < k["train.warmup_epochs"]:
            share = epoch / k["train.warmup_epochs"]
            return (1 - share) * start + share * on_cosine(k["train.warmup_epochs"])
        return on_cosine(epoch)
    if epoch < k["train.warmup_epochs"]:
        return start + (peak - start) * epoch / k["train.warmup_epochs"]
    progress = (epoch - k["train.warmup_epochs"]) / (k["train.epochs"] - k["train.warmup_epochs"])
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def sgd_step(weight, gradient, state, lr, decay, momentum) -> None:
    """With Nesterov's momentum as PyTorch writes it; the decay is part of the gradient."""
    gradient = gradient + decay * weight
    state[0].mul_(momentum).add_(gradient)
    weight -= lr * (gradient + momentum * state[0])


def adamw_step(weight, gradient, state, lr, decay, number) -> None:
    """Loshchilov and Hutter (2019): the decay is apart from the moments."""
    weight *= 1 - lr * decay
    state[0].mul_(0.9).add_(0.1 * gradient)
    state[1].mul_(0.999).add_(0.001 * gradient**2)
    weight -= lr * (state[0] / (1 - 0.9**number)) / ((state[1] / (1 - 0.999**number)).sqrt() + 1e-8)


def is_ssm(name: str) -> bool:
    first, *others = name.split(".")
    return (first == "layer" and "norm" not in others) or first in (
        "mixer",
        "a_log",
        "d_skip",
        "backward_mixer",
        "backward_d_skip",
        "gate",
        "router",
    )


def decays(name: str, weight: Tensor) -> bool:
    """Matrices and convolutions, but neither A_log nor a table of positions."""
    return weight.ndim > 1 and name.split(".")[0] not in ("a_log", "position")


def cost(k: Keys, target: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Of each row: cross-entropy, or the focal loss with -(1 - p)^gamma log p in place of -log p."""
    log_p, smoothing = logits.log_softmax(-1), k["train.label_smoothing"]
    if k.get(f"targets.{target}.loss") == "focal":
        log_p = (1 - log_p.exp()) ** k.get(f"targets.{target}.gamma", 2.0) * log_p
    hit = log_p.gather(1, labels[:, None])[:, 0]
    return -((1 - smoothing) * hit + smoothing * log_p.mean(1))


class Data:
    """Arrays as stores hold them. video (rows, views, steps, D), NaN after a short row's; texts: question ->
    (tokens, D) of each row; labels: target -> one of each row; train and held: rows that are trained on, and
    rows that say when to stop.
    """

    def __init__(self, video, texts, labels, train, dtype=torch.float64, held=None) -> None:
        self.video, self.texts, self.train, self.held, self.dtype = video, texts, train, held, dtype
        self.labels = {target: torch.tensor(of_rows) for target, of_rows in labels.items()}

    def batch(self, k: Keys, rows: np.ndarray, epoch: int) -> Batch:
        """In an epoch, each row in a view of its own, without the streams that it loses."""
        seed, (count, views) = order_seed(k), self.video.shape[:2]
        view = np.random.default_rng([seed, epoch, views]).integers(views, size=count)
        return self.seen(k, rows, view, epoch)

    def seen(self, k: Keys, rows: np.ndarray, view: np.ndarray, epoch: int) -> Batch:
        """view: of every row."""
        seed, count = order_seed(k), len(self.video)
        batch = {"video": self._padded([self.video[row, view[row]] for row in rows])}
        for question, texts in self.texts.items():
            batch[question] = self._padded([texts[row] for row in rows])
        lost = {}
        for name, chance in k["train.drop_streams"].items():
            lost[name] = np.random.default_rng([seed, epoch, *name.encode()]).random(count)[rows] < chance
        loses_all = np.all([lost.get(name, np.zeros(len(rows), bool)) for name in batch], axis=0)
        for name, rows_of in lost.items():
            batch[name][1][torch.from_numpy(rows_of & ~loses_all)] = ABSENT
        return batch

    def _padded(self, rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        tokens = [torch.from_numpy(row[~np.isnan(row).any(1)]).to(self.dtype) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return padded, torch.tensor([len(row) for row in tokens])


# --- heads


def start_as_released(head: torch.nn.Module) -> None:
    """What the released code does to a head that was built: Xavier on all matrices, in their order, A_log and
    Conv1d's included; no bias in linear layers.
    """
    for name, weight in head.named_parameters():
        if weight.ndim > 1:
            inputs, outputs = (weight.shape[i] * weight[0, 0].numel() for i in (1, 0))
            bound = math.sqrt(6 / (inputs + outputs))
            weight.data.uniform_(-bound, bound)
        elif name.endswith("bias") and "conv1d" not in name:
            weight.data.zero_()


def forward(
    k: Keys, w: Weights, batch: Batch, keys: np.ndarray, shares: Tensor | None = None
) -> dict[str, Tensor]:
    """Logits by target, in training; keys (B,) of the dropout; shares (B,) of a mixup."""
    fuse = HEADS[k["head.name"]]
    routes = {}
    for target, other in (("verb", "noun_question"), ("noun", "verb_question")):
        both = k["head.question_routing"] == "both"
        routes[target] = [stream for stream in batch if both or stream != other]
    logits = {}
    for target, x in fuse(k, w, batch, keys, routes).items():
        if shares is not None:
            x = shares[:, None] * x + (1 - shares[:, None]) * x[partner(len(x))]
        x = drop(x, k["head.dropout"], keys_of_place(keys, target))
        logits[target] = F.linear(x, w[f"{target}_head.weight"], w[f"{target}_head.bias"])
    return logits


def modality(stream: str) -> str:
    return "text" if stream.endswith("_question") else stream


def project(k: Keys, w: Weights, stream: str, x: Tensor) -> Tensor:
    """Eq. 5's MLP, after a LayerNorm; a first layer of three has no bias."""
    at, number = f"project.{modality(stream)}", 0
    layers = k["head.video_mlp_layers" if stream == "video" else "head.text_mlp_layers"]
    if k["head.input_norm"]:
        x, number = F.layer_norm(x, x.shape[-1:], w[f"{at}.0.weight"], w[f"{at}.0.bias"]), 1
    for layer in range(layers):
        bias = None if layers == 3 and layer == 0 else w[f"{at}.{number}.bias"]
        x = F.linear(x if layer == 0 else x.relu(), w[f"{at}.{number}.weight"], bias)
        number += 2
    if stream == "video" and k.get("fusion.pre_logits"):
        number -= layers > 0  # no ReLU stands behind the last layer
        x = F.linear(x, w[f"{at}.{number}.weight"], w[f"{at}.{number}.bias"]).tanh()
    assert x.shape[-1] == k["head.d_model"]
    return x


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, 1): 1 for a row's own tokens, 0 for padding."""
    return (torch.arange(x.shape[1]) < lengths[:, None])[..., None].to(x.dtype)


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D) -> (B, D), 0 for a row without tokens."""
    return (x * valid(x, lengths)).sum(1) / lengths.clamp(min=1)[:, None]


def mambavl(k: Keys, w: Weights, batch: Batch, _: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    means = {name: mean(*ssm(k, w, name, *stream)) for name, stream in batch.items()}
    return {target: sum(means[name] for name in names) for target, names in routes.items()}


def bidirectional(k: Keys, w: Weights, batch: Batch, _: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    """Two readers of each stream, one from its first token to its last, one from its last to its first."""
    means = {}
    for name, stream in batch.items():
        means[name] = sum(mean(*ssm(k, w, name, *stream, direction)) for direction in ("", "backward_"))
    return {target: sum(means[name] for name in names) for target, names in routes.items()}


def cross(k: Keys, w: Weights, batch: Batch, _: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    """Each row by itself: its state of one modality is read out by the mean C of the others' tokens."""
    said, found = {}, {}  # stream -> C (B, L, N), lengths
    for name, stream in batch.items():
        ssm(k, w, name, *stream, read=lambda c, u, lengths, name=name: said.update({name: (c, lengths)}) or c)
    for target, names in routes.items():
        found[target] = 0
        for name in names:
            others = [said[other] for other in names if modality(other) != modality(name)]

            def read(c: Tensor, u: Tensor, _: Tensor, others=others, name=name) -> Tensor:
                rows = []
                for row, own in enumerate(c):
                    means = [of[row, : lengths[row]].mean(0) for of, lengths in others if lengths[row] > 0]
                    other = sum(means) / len(means) if means else own
                    weight = 1.0
                    if k["cross.gated"]:
                        at = f"gate.{'all' if k['fusion.share'] == 'all' else modality(name)}"
                        weight = torch.sigmoid(F.linear(u[row], w[f"{at}.weight"], w[f"{at}.bias"]))
                    rows.append((1 - weight) * own + weight * other)
                return torch.stack(rows)

            found[target] = found[target] + mean(*ssm(k, w, name, *batch[name], read=read))
    return found


def ssm(
    k: Keys, w: Weights, stream: str, x: Tensor, lengths: Tensor, direction: str = "", read: Any = None
) -> tuple[Tensor, Tensor]:
    """Eq. 2, 3 and 5 with the recurrence as a loop; Gu and Dao (2023), section 3, for the block around it.
    read: (C, u, lengths) -> what reads the states out in place of C.
    """
    share = k["fusion.share"]
    key = "all" if share == "all" else modality(stream)
    a = -torch.exp(w[f"a_log.{modality(stream) if share == 'none' else 'shared'}"])  # (D, N); K of a mixture
    skip = f"{direction}d_skip.{'shared' if share in ('A+D', 'all') else modality(stream)}"
    if modality(stream) == "text" and k["fusion.pad_text_to"]:
        x = F.pad(x, (0, 0, 0, k["fusion.pad_text_to"]))[:, : k["fusion.pad_text_to"]]
        lengths = torch.where(lengths == ABSENT, 0, k["fusion.pad_text_to"])
    if direction:
        rows = zip(x, lengths.clamp(min=0).tolist(), strict=True)
        x = torch.stack([torch.cat([row[:n].flip(0), row[n:]]) for row, n in rows])
    x = project(k, w, stream, x)
    if k["head.name"] == "deep":  # Gu and Dao (2023): layers with a norm before them and a residual beside
        places = [f"layer.{key}.{i}." for i in range(k["deep.layers"])]
        assert f"{places[-1]}d_skip" not in w
        for place in places[:-1]:
            y = F.layer_norm(x, x.shape[-1:], w[f"{place}norm.weight"], w[f"{place}norm.bias"])
            x = x + scanned(k, w, (f"{place}mixer", f"{place}d_skip"), y, lengths, a)
    if k["head.name"] == "mixture":
        a = a, w[f"router.{key}.weight"]
    return scanned(k, w, (f"{direction}mixer.{key}", skip), x, lengths, a, read), lengths


def scanned(k: Keys, w: Weights, names, x: Tensor, lengths: Tensor, a, read: Any = None) -> Tensor:
    """What an SSM makes of x (B, L, d). names: of its block, its D; a: (D, N), or K of them and a router."""
    states, is_block, steps = k["fusion.d_state"], k["fusion.mixer"] == "mamba", x.shape[1]
    inner = k["head.d_model"] * (k["fusion.expand"] if is_block else 1)
    rank = k.get("fusion.dt_rank") or math.ceil(k["head.d_model"] / 16)
    (at, skip), u = names, x
    if is_block:
        u, gate = F.linear(u, w[f"{at}.in_proj.weight"]).split([inner, inner], -1)
    taps = w[f"{at}.conv1d.weight"][:, 0].split(1, 1)  # the last one is of the present
    before = F.pad(u, (0, 0, len(taps) - 1, 0))
    u = sum(before[:, i : i + steps] * tap[:, 0] for i, tap in enumerate(taps)) + w[f"{at}.conv1d.bias"]
    u = F.silu(u)
    if isinstance(a, tuple):  # MixANT (arXiv 2509.11394): an A for each row, (B, D, N)
        matrices, router = a
        assert len(matrices) == k["mixture.matrices"]
        share_of = F.linear(mean(u, lengths), router).softmax(-1)
        a = sum(share_of[:, i, None, None] * matrix for i, matrix in enumerate(matrices))
    assert (len(taps), a.shape[-2:]) == (k["fusion.d_conv"], (inner, states))
    delta, b, c = F.linear(u, w[f"{at}.x_proj.weight"]).split([rank, states, states], -1)
    delta = F.softplus(F.linear(delta, w[f"{at}.dt_proj.weight"], w[f"{at}.dt_proj.bias"]))  # (B, L, D)
    c = read(c, u, lengths) if read else c
    h, found = torch.zeros(len(u), inner, states, dtype=u.dtype), []
    for t in range(steps):
        step = delta[:, t, :, None]
        entering = torch.expm1(step * a) / a if k["fusion.zoh"] else step
        h = torch.exp(step * a) * h + entering * b[:, t, None] * u[:, t, :, None]
        found.append((h * c[:, t, None]).sum(-1) + w[skip] * u[:, t])
    y = torch.stack(found, 1)
    if is_block:
        y = F.linear(y * F.silu(gate), w[f"{at}.out_proj.weight"])
    return y


def mlp(k: Keys, w: Weights, batch: Batch, _: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    vectors, found = {}, {}
    for name, (x, lengths) in batch.items():
        vectors[name] = project(k, w, name, mean(x, lengths)) * (lengths > 0)[:, None]
    for target, names in routes.items():
        x = torch.cat([vectors[name] for name in names], -1)
        x = F.linear(x, w["fuser.0.weight"], w["fuser.0.bias"]).relu()
        found[target] = F.linear(x, w["fuser.2.weight"], w["fuser.2.bias"])
    return found


def transformer(k: Keys, w: Weights, batch: Batch, keys: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    """Pre-norm blocks over class token and tokens of all streams. The class token of the first stream that a
    row has is read; of a row without any, zeros.
    """
    parts, found, depth = {}, {}, k["transformer.depth"]
    for name, (x, lengths) in batch.items():
        m = modality(name)
        if k["transformer.tokens"] == "pooled":
            x, lengths = mean(x, lengths)[:, None], lengths.clamp(max=1)
        x = torch.cat([w[f"cls_token.{m}"].expand(len(x), 1, -1), project(k, w, name, x)], 1)
        assert len(w[f"position.{m}"]) == k["transformer.max_positions"]
        x = x + w[f"position.{m}"][: x.shape[1]] + w[f"type_token.{m}"]
        parts[name] = x, valid(x, lengths + 1)[..., 0], keys_of_tokens(keys, name, x.shape[1])
    assert f"blocks.{depth}.qkv.weight" not in w
    for target, names in routes.items():
        x, counts = (torch.cat([parts[name][i] for name in names], 1) for i in (0, 1))
        of_tokens = np.concatenate([parts[name][2] for name in names], 1)
        has_any = counts.any(1, keepdim=True)
        hidden = torch.where((counts > 0) | ~has_any, 0.0, -torch.inf)[:, None, None]  # (B, 1, 1, L)
        for i in range(depth):
            own = {name.removeprefix(f"blocks.{i}."): weight for name, weight in w.items()}
            heads, p = k["transformer.num_heads"], k["transformer.block_dropout"]
            x = block(own, heads, x, hidden, p, keys_of_place(of_tokens, f"{target} block {i}"))
        found[target] = x[torch.arange(len(x)), counts.argmax(1)] * has_any
    return found


def block(w: Weights, heads: int, x: Tensor, hidden: Tensor, p: float, keys: np.ndarray) -> Tensor:
    y = F.layer_norm(x, x.shape[-1:], w["norm1.weight"], w["norm1.bias"])
    y = attend(w, heads, *F.linear(y, w["qkv.weight"]).chunk(3, -1), hidden)
    x = x + drop(y, p, keys_of_place(keys, "attention"))
    return x + drop(mlp_of_block(w, x), p, keys_of_place(keys, "mlp"))


def attend(w: Weights, heads: int, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Vaswani et al. (2017), section 3.2. query (B, M, d), key and value (B, L, d); hidden (B, 1, 1, L): 0,
    or -infinity where there is no token. Returns (B, M, d).
    """
    q, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    attention = (q @ key.transpose(-1, -2) / math.sqrt(q.shape[-1]) + hidden).softmax(-1)
    return F.linear((attention @ value).transpose(1, 2).flatten(2), w["proj.weight"], w["proj.bias"])


def mlp_of_block(w: Weights, x: Tensor) -> Tensor:
    y = F.layer_norm(x, x.shape[-1:], w["norm2.weight"], w["norm2.bias"])
    y = F.gelu(F.linear(y, w["mlp.0.weight"], w["mlp.0.bias"]))
    return F.linear(y, w["mlp.2.weight"], w["mlp.2.bias"])


def attentive(k: Keys, w: Weights, batch: Batch, keys: np.ndarray, routes: Routes) -> dict[str, Tensor]:
    """Self-attention over all tokens of a target, then a query of its own that looks at them; zeros for a row
    without tokens.
    """
    heads, depth, found = k["attentive.num_heads"], k["attentive.depth"], {}
    assert f"blocks.{depth - 1}.qkv.weight" not in w
    pool = {name.removeprefix("pool."): weight for name, weight in w.items() if name.startswith("pool.")}
    for target, names in routes.items():
        parts, counts = [], []
        for name in names:
            x, lengths = batch[name]
            x = project(k, w, name, x) + w[f"type_token.{modality(name)}"]
            if k["attentive.max_positions"]:
                table = w[f"position.{modality(name)}"]
                assert len(table) == k["attentive.max_positions"]
                x = x + table[: x.shape[1]]
            parts.append(x)
            counts.append(valid(x, lengths)[..., 0])
        x, there = torch.cat(parts, 1), torch.cat(counts, 1)
        has_any = there.any(1, keepdim=True)
        hidden = torch.where((there > 0) | ~has_any, 0.0, -torch.inf)[:, None, None]
        for i in range(depth - 1):
            own = {name.removeprefix(f"blocks.{i}."): weight for name, weight in w.items()}
            x = block(own, heads, x, hidden, 0.0, keys[:, None])
        query = w[f"query.{target}"].expand(len(x), 1, -1)
        y = F.layer_norm(x, x.shape[-1:], pool["norm1.weight"], pool["norm1.bias"])
        queries, values = (
            F.linear(z, pool[f"{part}.weight"], pool[f"{part}.bias"])
            for z, part in ((query, "queries"), (y, "values"))
        )
        z = query + attend(pool, heads, queries, F.linear(y, pool["keys.weight"]), values, hidden)
        found[target] = (z + mlp_of_block(pool, z))[:, 0] * has_any
    return found


HEADS = {
    "mambavl": mambavl,
    "bidirectional": bidirectional,
    "cross": cross,
    "mixture": mambavl,
    "deep": mambavl,
    "mlp": mlp,
    "transformer": transformer,
    "attentive": attentive,
}


# --- mixup


def shares_of(k: Keys, epoch: int, rows: np.ndarray, data: Data) -> Tensor | None:
    """(B,) what rows keep of themselves."""
    if not (alpha := k["train.mixup"]):
        return None
    shares = np.random.default_rng([order_seed(k), epoch, *b"mixup"]).beta(alpha, alpha, len(data.video))
    return torch.from_numpy(shares[rows].astype(np.float32)).to(data.dtype)


def partner(rows: int) -> list[int]:
    """Of the rows of a batch: 1, 0, 3, 2, ...; the last of an odd number is its own."""
    return [min(row + 1 if row % 2 == 0 else row - 1, rows - 1) for row in range(rows)]


# --- dropout

GAMMA = 0x9E3779B97F4A7C15


def splitmix(seeds, number) -> np.ndarray:
    """Output `number` (from 0) of SplitMix64 generators started at `seeds`, uint64."""
    seeds, number = np.array(seeds, np.uint64, ndmin=1), np.array(number, np.uint64, ndmin=1)
    state = seeds + (number + np.uint64(1)) * np.uint64(GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def order_seed(k: Keys) -> int:
    """Of what batches are."""
    return k["train.seed"] if k["train.order_seed"] is None else k["train.order_seed"]


def keys_of_rows(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    return splitmix(splitmix(seed, epoch), rows)


def keys_of_place(keys: np.ndarray, place: str) -> np.ndarray:
    return splitmix(keys, zlib.crc32(place.encode()))


def keys_of_tokens(keys: np.ndarray, stream: str, length: int) -> np.ndarray:
    return splitmix(keys_of_place(keys, stream)[:, None], np.arange(length))


def drop(x: Tensor, p: float, keys: np.ndarray) -> Tensor:
    """x (..., D), keys (...): channel c has quarter c % 4 of word c // 4 of its key; it stays where the
    quarter, signed, is below (1/2 - p) 2^16.
    """
    c = np.arange(x.shape[-1])
    quarter = (splitmix(keys[..., None], c // 4) >> (16 * (c % 4)).astype(np.uint64)).astype(np.uint16)
    kept = 65536 - round(p * 65536)
    stays = torch.from_numpy(quarter.astype(np.int16) < kept - 32768).to(x.dtype)
    return x * stays * (65536 / kept)


def without_channels(k: Keys, batch: Batch, keys: np.ndarray) -> Batch:
    """Each channel of a stream lost in all tokens of a row."""
    found = dict(batch)
    for name, chance in k["train.feature_dropout"].items():
        tokens, lengths = batch[name]
        kept = drop(torch.ones_like(tokens[:, 0]), chance, keys_of_place(keys, f"channels of {name}"))
        found[name] = tokens * kept[:, None], lengths
    return found
