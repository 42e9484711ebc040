"""The derivative of LOOP: a loop that runs the other way.

The forward loop also stacks its carries at the start of every turn; the backward loop reads them,
computes what it needs of the turn again, and carries the cotangents of the carries. Cotangents of
scanned arrays are its stacked results. Those of shared values are sums over the turns, the last
turn of the forward loop first, each added to the right of the sum so far, which starts at +0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flopmarket.engine import compose, graph, loop
from flopmarket.engine.compose import like
from flopmarket.engine.enclose import Open, enclose, hole
from flopmarket.engine.graph import Node
from flopmarket.engine.loop import Group

PullBack = Callable[[Mapping[Node, Node], set[Node]], dict[Node, Node]]
"""(cotangents of some nodes, targets) -> cotangents of the targets that are reached."""


def contributions(
    group: Group, given: Mapping[int, Node], reached: set[Node], pull_back: PullBack
) -> list[tuple[Node, Node]]:
    """(source, cotangent) of a loop whose results ``given`` have these cotangents.

    Sources that are not ``reached`` get none; the others in their order.
    """
    turn = _Turn(group, given, reached, pull_back)
    cotangents = turn.settle()
    return turn.backward(cotangents)


class _Turn:
    """The body of the forward loop over holes, and the way back through it."""

    def __init__(
        self, group: Group, given: Mapping[int, Node], reached: set[Node], pull_back: PullBack
    ) -> None:
        self.group = group
        self.given = {at: g for at, g in given.items() if g.dtype.is_float}
        self.pull_back = pull_back
        body = group.body
        self.holes = {p: hole(leaf.dtype, leaf.shape) for p, leaf in body.placeholders.items()}
        exchanged = {leaf: self.holes[p] for p, leaf in body.placeholders.items()}
        self.results = compose.replace(body.results, exchanged)
        self.sources: dict[tuple[str, int], Node] = {}
        """What fills every placeholder that is read."""
        first = {"carry": 0, "item": body.carries, "shared": body.carries + body.items}
        for kind, at in self.holes:
            self.sources[kind, at] = group.src[first[kind] + at]
        self.wanted = {
            place
            for place, source in self.sources.items()
            if source in reached and source.dtype.is_float
        }
        """Placeholders whose sources get a cotangent."""
        self.active = self._active()
        self.seeds = {
            which: hole(self.results[which].dtype, self.results[which].shape)
            for which in sorted(self.given)
        }
        """Holes for the cotangents of results."""

    def _active(self) -> set[Node]:
        """Holes through which a wanted one reaches a result, carries of later turns included."""
        active = {self.holes[place] for place in self.wanted}
        order = graph.topological(self.results)
        while True:
            touched = set(active)
            for node in order:
                if any(source in touched for source in node.src):
                    touched.add(node)
            more = {
                self.holes["carry", at]
                for at, following in enumerate(self.results[: self.group.body.carries])
                if following in touched and following.dtype.is_float and ("carry", at) in self.holes
            }
            if more <= active:
                return active
            active |= more

    def settle(self) -> dict[Node, Node]:
        """Cotangents of the active holes in one turn, once every carry that has one is a seed."""
        while True:
            totals: dict[Node, Node] = {}
            for which in sorted(self.seeds):
                node, seed = self.results[which], self.seeds[which]
                known = totals.get(node)
                totals[node] = seed if known is None else graph.add(known, seed)
            found = self.pull_back(totals, self.active)
            new = [
                at
                for at in range(self.group.body.carries)
                if at not in self.seeds
                and ("carry", at) in self.holes
                and self.holes["carry", at] in self.active
                and self.holes["carry", at] in found
            ]
            if not new:
                return found
            for at in new:
                leaf = self.holes["carry", at]
                self.seeds[at] = hole(leaf.dtype, leaf.shape)

    def backward(self, found: Mapping[Node, Node]) -> list[tuple[Node, Node]]:
        """Build the backward loop and say what it gives to whom."""
        group, body = self.group, self.group.body
        carried = [at for at in sorted(self.seeds) if at < body.carries]
        stacked = [at for at in sorted(self.seeds) if at >= body.carries]
        items = [p for p in sorted(self.wanted) if p[0] == "item" and self.holes[p] in found]
        shared = [p for p in sorted(self.wanted) if p[0] == "shared" and self.holes[p] in found]
        totals = [hole(self.holes[p].dtype, self.holes[p].shape) for p in shared]
        following = [
            found.get(self.holes.get(("carry", at), self.seeds[at]), like(0.0, self.seeds[at]))
            for at in carried
        ]
        following += [
            graph.add(total, found[self.holes[place]])
            for total, place in zip(totals, shared, strict=True)
        ]
        outside = {self.holes[p]: s for p, s in self.sources.items() if p[0] == "shared"}
        nodes = compose.replace(
            [*following, *(found[self.holes[place]] for place in items)], outside
        )
        read = [p for p in self.holes if p[0] != "shared"]
        residuals = self._residuals(place for place in read if place[0] == "carry")
        last, slices = enclose(
            Open(
                carries=(*(self.seeds[at] for at in carried), *totals),
                items=(*(self.holes[p] for p in read), *(self.seeds[at] for at in stacked)),
                initial=(
                    *(self.given.get(at, like(0.0, group.src[at])) for at in carried),
                    *(like(0.0, self.sources[place]) for place in shared),
                ),
                scanned=(
                    *(residuals.get(place, self.sources[place]) for place in read),
                    *(self.given[at] for at in stacked),
                ),
                following=nodes[: len(following)],
                slices=nodes[len(following) :],
            ),
            group.count,
            not group.reverse,
        )
        parts: list[tuple[Node, Node]] = [
            (group.src[at], node) for at, node in zip(carried, last, strict=False)
        ]
        parts += [(self.sources[p], node) for p, node in zip(items, slices, strict=True)]
        sums = last[len(carried) :]
        return parts + [(self.sources[p], node) for p, node in zip(shared, sums, strict=True)]

    def _residuals(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Node]:
        """The carries at the start of every turn, stacked by the forward loop."""
        group, body = self.group, self.group.body
        wanted = list(places)
        missing = [body.placeholders[p] for p in wanted]
        missing = [leaf for leaf in missing if leaf not in body.results[body.carries :]]
        if missing:
            body = loop.body_of((*body.results, *missing), body.carries, body.items, body.shared)
            group = Group(group.src, group.count, group.reverse, body)
        return {
            place: loop.result(group, body.results.index(body.placeholders[place], body.carries))
            for place in wanted
        }
