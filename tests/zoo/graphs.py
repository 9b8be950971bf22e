"""Graph networks: an edge index of each graph, one of all graphs, sparse and dense adjacency."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N

NODES, WIDTH, EDGES = 5, 3, 8


def scatter(values: Tensor, index: Tensor, size: int, how: str = "sum") -> Tensor:
    """Values (edge, channel) put together by node, the usual ways."""
    at = index[:, None].expand_as(values)
    empty = values.new_zeros(size, values.shape[1])
    if how == "max":
        return empty.scatter_reduce(0, at, values, "amax", include_self=False)
    total = empty.scatter_add_(0, at, values)
    if how == "mean":
        count = values.new_zeros(size).index_add_(0, index, torch.ones_like(values[:, 0]))
        total = total / count.clamp(min=1)[:, None]
    return total


class Convolution(nn.Module):
    """Graph convolution with an edge index (2, edge), normalised by degrees."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(inside, outside, bias=False), nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        degree = torch.ones(len(x)).index_add(0, target, torch.ones(edges.shape[1]))
        norm = degree.rsqrt()[source] * degree.rsqrt()[target]
        return scatter(self.lin(x).index_select(0, source) * norm[:, None], target, len(x)) + self.bias


class Transductive(nn.Module):
    """Two convolutions on one graph, whose nodes are the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Convolution(WIDTH, 6), Convolution(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x, edges)), edges)


class Shared(nn.Module):
    """Signals (example, node, channel) on one graph, whose edge index all examples share."""

    def __init__(self, how: str = "sum") -> None:
        super().__init__()
        self.how = how
        self.lin, self.out = nn.Linear(WIDTH, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(x)
        sent = h.index_select(1, edges[0])
        if self.how == "mean":
            h = torch.zeros_like(h).index_add(1, edges[1], sent) / 2
        else:
            h = torch.zeros_like(h).scatter_add(1, edges[1][None, :, None].expand_as(sent), sent)
        return self.out(F.relu(h).mean(1))


class Own(nn.Module):
    """Each example is a graph with an edge index of its own, (2, edge)."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(WIDTH, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n, nodes, _ = x.shape
        offset = (torch.arange(n) * nodes)[:, None]
        source, target = (edges[:, 0] + offset).flatten(), (edges[:, 1] + offset).flatten()
        h = self.lin(x).flatten(0, 1)
        h = scatter(h[source], target, n * nodes)
        return self.out(F.relu(h).view(n, nodes, -1).mean(1))


class Attention(nn.Module):
    """Graph attention with a softmax over the edges of a node."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.score, self.out = nn.Linear(WIDTH, 6), nn.Linear(12, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(x)
        source, target = h.index_select(1, edges[0]), h.index_select(1, edges[1])
        weight = F.leaky_relu(self.score(torch.cat([source, target], 2)), 0.2).exp()
        at = edges[1][None, :, None]
        total = torch.zeros_like(h[..., :1]).scatter_add(1, at.expand_as(weight), weight)
        mixed = torch.zeros_like(h).scatter_add(1, at.expand_as(source), source * weight)
        return self.out(F.elu(mixed / (total + 1e-9)).mean(1))


class Adjacent(nn.Module):
    """Propagates with an adjacency matrix that belongs to the model: dense, or sparse."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(WIDTH, 6), nn.Linear(6, 3)
        links = (torch.rand(NODES, NODES) < 0.5).float() + torch.eye(NODES)
        self.sparse = sparse
        if sparse:  # as an attribute, since a state_dict of sparse buffers cannot be recorded
            self.links = links.to_sparse()
        else:
            self.register_buffer("links", links)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x)
        if self.sparse:
            flat = h.transpose(0, 1).flatten(1)
            h = torch.sparse.mm(self.links, flat).view(NODES, len(x), -1).transpose(0, 1)
        else:
            h = self.links @ h
        return self.out(F.relu(h).mean(1))


class SparseBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, 3)
        self.register_buffer("links", torch.eye(NODES).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x).mean(1)


def signals() -> Tensor:
    return torch.randn(N, NODES, WIDTH)


def classes() -> Tensor:
    return torch.arange(N) % 3


def edge_index() -> Tensor:
    return torch.stack([torch.arange(EDGES + 3) % NODES, (2 * torch.arange(EDGES + 3) + 1) % NODES])


def of_one_graph() -> Batch:
    return (signals(), edge_index()), classes()


def cross_entropy(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    out = model(inputs["x"], inputs["edge_index"])
    return out, F.cross_entropy(out, targets, reduction="none")


def named_graph() -> Batch:
    return {"x": signals(), "edge_index": edge_index()}, classes()


def own_graphs() -> Batch:
    return (signals(), torch.randint(0, NODES, (N, 2, EDGES))), classes()


EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0], [1, 2, 3, 4, 5, 6, 7, 0, 4]])


def transductive(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    out = model(inputs, EDGE_INDEX % len(inputs))
    return out, F.cross_entropy(out, targets, reduction="none")


def by_index(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """An example is a node's place in the one graph that all of them have in common."""
    out = model(inputs["x"], inputs["edge_index"])[inputs["node"]]
    return out, F.cross_entropy(out, targets, reduction="none")


def places() -> Batch:
    graph = {"x": torch.randn(N + 2, WIDTH), "edge_index": EDGE_INDEX}
    return {"node": torch.arange(N), **graph}, classes()


G = "graphs"
CE = nn.CrossEntropyLoss()
CASES = [
    Case("one edge index for all examples", G, Shared, of_one_graph, CE, shared=(1,)),
    Case("one edge index, index_add", G, lambda: Shared("mean"), of_one_graph, CE, shared=(1,)),
    Case(
        "one edge index, named, in an objective",
        G,
        Shared,
        named_graph,
        objective=cross_entropy,
        shared=("edge_index",),
    ),
    Case("graph attention", G, Attention, of_one_graph, CE, shared=(1,)),
    Case("an edge index of each example", G, Own, own_graphs, CE),
    Case("dense adjacency", G, lambda: Adjacent(False), lambda: (signals(), classes()), CE),
    Case("sparse adjacency", G, lambda: Adjacent(True), lambda: (signals(), classes()), CE, eager=True),
    Case(
        "sparse adjacency as a buffer",
        G,
        SparseBuffer,
        lambda: (signals(), classes()),
        CE,
        refused="is sparse",
    ),
    Case(
        "nodes of one graph as examples",
        G,
        Transductive,
        lambda: (torch.randn(N, WIDTH), classes()),
        objective=transductive,
        off="mixes the examples",
    ),
    Case(
        "nodes of one graph, by their index",
        G,
        Transductive,
        places,
        objective=by_index,
        shared=("x", "edge_index"),
    ),
]
