//! Epochs: the number of a primary's reign. The two nodes never mint the same one.

use core::fmt;

/// One of the two seats of the pair, fixed for life: the node whose name sorts first is A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Mints even epochs.
    A,
    /// Mints odd epochs.
    B,
}

impl Side {
    /// The other seat.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    fn parity(self) -> u64 {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

/// Number of a reign: counter·2 + seat. Zero is "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No reign yet.
    pub const NONE: Epoch = Epoch(0);
    /// Above this somebody else could exhaust the counter; honest pairs stay below for ever. No
    /// other number is taken from outside.
    pub const MAX: Epoch = Epoch(1 << 62);

    /// The smallest epoch of `side` above `self`.
    ///
    /// # Panics
    /// When the 64-bit counter is exhausted, which a billion failovers a second reach after
    /// centuries.
    #[must_use]
    pub fn next_of(self, side: Side) -> Epoch {
        let next = self.0.checked_add(1).expect("epoch counter exhausted");
        if next % 2 == side.parity() { Epoch(next) } else { Epoch(next + 1) }
    }

    /// Who minted it; `None` for [`Epoch::NONE`].
    #[must_use]
    pub fn minted_by(self) -> Option<Side> {
        match (self.0, self.0 % 2) {
            (0, _) => None,
            (_, 0) => Some(Side::A),
            _ => Some(Side::B),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_independent_numberings_never_meet() {
        let (mut a, mut b) = (Epoch::NONE, Epoch::NONE);
        for _ in 0..1_000 {
            a = a.next_of(Side::A);
            b = b.next_of(Side::B);
            assert_ne!(a, b);
            assert_eq!(a.minted_by(), Some(Side::A));
            assert_eq!(b.minted_by(), Some(Side::B));
        }
    }

    #[test]
    fn next_is_above_whatever_the_seat_of_the_last() {
        for e in 0..20 {
            for side in [Side::A, Side::B] {
                let next = Epoch(e).next_of(side);
                assert!(next > Epoch(e) && next.0 - e <= 2);
                assert_eq!(next.minted_by(), Some(side));
            }
        }
    }
}
