//! Randomness from a seed, the same on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014): every seed is good, and two dice of one seed are told
/// apart by their purpose.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice for one purpose of one seed.
    pub(crate) fn new(seed: u64, purpose: u64) -> Dice {
        let mut dice = Dice(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `sides`; zero when there are none.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        if sides == 0 {
            return 0;
        }
        let wide = u128::from(self.next()) * u128::from(sides);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll(high.saturating_sub(low) + 1)
    }

    /// True in `permille` of a thousand rolls.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.roll(1_000) < permille
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = usize::try_from(self.roll(of.len() as u64)).unwrap_or(0);
        &of[at]
    }
}
