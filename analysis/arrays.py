"""Rows of large tables as NumPy arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd


class Rows:
    """Rows of a table as arrays of numbers, because cutting a pandas frame into thousands of pieces takes a minute.

    A string is stored as its index in its column's list of strings; a missing value is NaN.
    """

    def __init__(self, columns: dict[str, np.ndarray], lists: dict[str, list[str]]) -> None:
        self._columns = columns
        self._lists = lists

    @classmethod
    def of(cls, table: pd.DataFrame) -> Rows:
        """Convert a frame."""
        columns, lists = {}, {}
        for name in table.columns:
            if pd.api.types.is_string_dtype(table[name]):
                numbers, words = pd.factorize(table[name])
                columns[name] = np.where(numbers < 0, np.nan, numbers)
                lists[name] = [str(word) for word in words]
            else:
                columns[name] = table[name].to_numpy("float64", na_value=np.nan)
        return cls(columns, lists)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def where(self, name: str, word: str) -> Rows:
        """Select the rows whose column `name` is `word`."""
        words = self._lists[name]
        number = words.index(word) if word in words else -1
        return self.at(np.flatnonzero(self._columns[name] == number))

    def at(self, rows: np.ndarray) -> Rows:
        """Select rows by index."""
        return Rows({key: column[rows] for key, column in self._columns.items()}, self._lists)

    def places(self, name: str) -> dict[str, np.ndarray]:
        """Map each word of a column to its row indices. Faster than `where` for thousands of words."""
        column = self._columns[name]
        order = np.argsort(column, kind="stable")  # NaN comes last
        ends = np.searchsorted(column[order], np.arange(len(self._lists[name])), side="right")
        return dict(zip(self._lists[name], np.split(order, ends)[:-1], strict=True))

    def words(self, name: str) -> list[str]:
        """List the distinct words of a column in order of appearance."""
        there = np.unique(self._columns[name])
        return [self._lists[name][int(number)] for number in there[~np.isnan(there)]]

    def text(self, name: str, rows: np.ndarray) -> list[str]:
        """Look up the words of a column in these rows."""
        return [self._lists[name][int(number)] for number in self._columns[name][rows]]
