"""A topology as ASCII art: the picture in ARCHITECTURE.md."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.topology import LinkPolicy, LinkSpec, StageSpec, Topology, process_name


def diagram(topology: Topology) -> str:
    """The topology as ASCII art: boxes in table order, links beside them, their table below."""
    return "\n".join(_Drawing(topology).lines())


@dataclass(slots=True)
class _Wire:
    """A link on its way from its source's row to its target's row through one vertical lane."""

    link: LinkSpec
    source_row: int = 0
    target_row: int = 0
    lane: int = 0

    @property
    def top(self) -> int:
        return min(self.source_row, self.target_row)

    @property
    def bottom(self) -> int:
        return max(self.source_row, self.target_row)


class _Drawing:
    """Lays out boxes from top to bottom and wires at their right, the shortest wires innermost."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._wires = [_Wire(link) for link in topology.links]
        self._boxes: list[tuple[int, list[str], int]] = []  # first row, text lines, rows inside
        row = 0
        order = {stage.name: position for position, stage in enumerate(topology.stages)}
        for stage in topology.stages:
            text = self._describe(stage)
            ends = [
                (wire, outgoing)
                for wire in self._wires
                for outgoing in (True, False)
                if (wire.link.source if outgoing else wire.link.target) == stage.name
            ]
            # Ends that go up leave the box above those that go down, so that few wires cross.
            here = order[stage.name]
            ends.sort(
                key=lambda end: order[end[0].link.target if end[1] else end[0].link.source] - here
            )
            inside = max(len(text), len(ends))
            for offset, (wire, outgoing) in enumerate(ends):
                if outgoing:
                    wire.source_row = row + 1 + offset
                else:
                    wire.target_row = row + 1 + offset
            self._boxes.append((row, text, inside))
            row += inside + 3
        self._rows = row - 1
        self._assign_lanes()

    def lines(self) -> list[str]:
        """The picture, the key and the table of links."""
        return [
            *self._picture(),
            "",
            "--- blocks when the receiver is full    ... drops",
            "",
            *self._table(),
        ]

    def _describe(self, stage: StageSpec) -> list[str]:
        names = list(dict.fromkeys(process_name(stage, index) for index in range(stage.count)))
        process = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        title = stage.name if stage.count == 1 else f"{stage.name} x{stage.count}"
        notes = [str(stage.role)]
        notes += [f"nice {stage.nice}"] if stage.nice else []
        notes += ["expendable"] if stage.expendable else []
        return [title, ", ".join(notes), f"process {process}"]

    def _assign_lanes(self) -> None:
        """Give each wire the innermost lane that is free over its rows and one more each way."""
        taken: list[list[_Wire]] = []
        for wire in sorted(self._wires, key=lambda w: (w.bottom - w.top, w.top)):
            for lane, others in enumerate(taken):
                if all(wire.top > w.bottom + 1 or wire.bottom + 1 < w.top for w in others):
                    wire.lane = lane
                    others.append(wire)
                    break
            else:
                wire.lane = len(taken)
                taken.append([wire])

    def _picture(self) -> list[str]:
        width = max(len(line) for _, text, _ in self._boxes for line in text) + 4
        label = max((len(wire.link.name) for wire in self._wires), default=0)
        lane_at = width + label + 6  # "--label--" and the corner of lane 0
        columns = lane_at + 4 * (1 + max((wire.lane for wire in self._wires), default=0))
        canvas = [[" "] * columns for _ in range(self._rows)]
        for first, text, inside in self._boxes:
            edge = "+" + "-" * (width - 2) + "+"
            canvas[first][:width] = edge
            canvas[first + inside + 1][:width] = edge
            for offset in range(inside):
                content = text[offset] if offset < len(text) else ""
                canvas[first + 1 + offset][:width] = f"| {content.ljust(width - 4)} |"
        for wire in self._wires:
            solid = wire.link.policy is LinkPolicy.BLOCK
            column = lane_at + 4 * wire.lane
            for row in (wire.source_row, wire.target_row):
                canvas[row][width:column] = ("-" if solid else ".") * (column - width)
        for wire in self._wires:
            solid = wire.link.policy is LinkPolicy.BLOCK
            column = lane_at + 4 * wire.lane
            for row in range(wire.top, wire.bottom + 1):
                canvas[row][column] = "|" if solid else ":"
            canvas[wire.source_row][column] = canvas[wire.target_row][column] = "+"
            canvas[wire.source_row][width + 2 : width + 2 + len(wire.link.name)] = wire.link.name
            canvas[wire.target_row][width] = "<"
        return ["".join(row).rstrip() for row in canvas]

    def _table(self) -> list[str]:
        rows = [("link", "from", "to", "when full", "capacity", "carries")]
        rows += [
            (
                link.name,
                link.source,
                link.target,
                str(link.policy),
                str(link.capacity),
                link.carries,
            )
            for link in self._topology.links
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
