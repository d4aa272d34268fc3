"""How long certificates live, and when the next one is due. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.errors import AuthorityError

ROOT_LIFE = timedelta(days=3650)
INTERMEDIATE_LIFE = timedelta(days=365)
LEAF_LIFE = timedelta(days=7)

# Before the end of what is not renewed by itself.
WARNING = timedelta(days=30)
# A new root has to be brought to every builder.
ROOT_WARNING = timedelta(days=365)

_NEXT_LOOK = timedelta(hours=1)


@dataclass(frozen=True)
class Lives:
    """What leaves and intermediates are issued for. Raises AuthorityError when that cannot be."""

    leaf: timedelta = LEAF_LIFE
    intermediate: timedelta = INTERMEDIATE_LIFE

    def __post_init__(self) -> None:
        if self.leaf < timedelta(seconds=1):
            raise AuthorityError(f"leaf certificates cannot live {self.leaf}; raise leaf-life")
        if self.intermediate < 2 * self.leaf:
            raise AuthorityError(
                f"leaf certificates that live {self.leaf} need an intermediate that lives twice as long, "
                f"not {self.intermediate}; raise intermediate-life or lower leaf-life"
            )

    @property
    def margin(self) -> timedelta:
        """How long before its end an intermediate is renewed: so long that no leaf is ever cut short by it."""
        return max(self.leaf, min(WARNING, self.intermediate / 3))

    def renewal(self, end: datetime, now: datetime) -> datetime:
        """From when on another intermediate than the one that ends then is wanted, later than `now`."""
        due = end - self.margin
        # What is due and was not renewed cannot be yet: the root's key is away, or the root itself ends.
        return due if due > now else now + max(min(_NEXT_LOOK, (end - now) / 4), timedelta(seconds=1))
