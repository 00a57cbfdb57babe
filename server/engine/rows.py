"""Which rows of a bank belong to whom: a first-fit allocator of contiguous runs."""

from prompts.errors import CapacityError

__all__ = ["RowAllocator"]


class RowAllocator:
    """Hands out runs of rows from `first` to `first + capacity - 1`; any length, first fit.

    `kind` names the rows in errors (`text_rows`, `vision_rows`).
    """

    def __init__(self, kind: str, *, first: int, capacity: int) -> None:
        self.kind = kind
        self.capacity = capacity
        self._free: list[tuple[int, int]] = [(first, capacity)] if capacity else []

    @property
    def free_rows(self) -> int:
        """Rows that belong to no one."""
        return sum(length for _, length in self._free)

    def allocate(self, length: int) -> int:
        """Returns the first row of a free run of `length`; 0 for a length of 0.

        Raises:
            CapacityError: no run is long enough; nothing was changed.
        """
        if length == 0:
            return 0
        for index, (row0, free) in enumerate(self._free):
            if free >= length:
                rest = [(row0 + length, free - length)] if free > length else []
                self._free[index : index + 1] = rest
                return row0
        raise CapacityError(
            f"{self.kind}: {length} rows in a run are needed, {self.free_rows} of {self.capacity} are free "
            f"(longest run {max((free for _, free in self._free), default=0)}); "
            f"unload a task or raise {self.kind}"
        )

    def release(self, row0: int, length: int) -> None:
        """Gives a run back and joins it with its free neighbours."""
        if length == 0:
            return
        joined: list[tuple[int, int]] = []
        for start, free in sorted([*self._free, (row0, length)]):
            if joined and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + free)
            else:
                joined.append((start, free))
        self._free = joined
