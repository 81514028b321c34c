//! What blocks hold that are to be compared later: each sector says which one it is, and which writing of it.
//!
//! A sector begins with a mark, its number, its generation, and a check of these; the rest follows from them and the
//! seed. So what is found tells what went wrong: another sector, an older generation, or neither.

use std::fmt;

use outboard_virtio_defs::blk::SECTOR_SIZE;

/// Begins every sector.
const MARK: u64 = 0x4f55_5442_4f41_5244;
/// Words of a sector.
const WORDS: usize = SECTOR_SIZE as usize / 8;

/// What a sector is expected to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// What was written the nth time.
    Generation(u32),
    /// Anything that was written by us.
    Any,
}

/// The patterns of one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    seed: u64,
}

/// A place where something else was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Bytes from the start of the disk, of the first byte that differs.
    pub(super) at: u64,
    expected: Expected,
    found: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Zeroes,
    Unknown,
    /// Well-formed, but another one.
    Sector {
        number: u64,
        generation: u32,
    },
    /// The right one, damaged.
    Damaged {
        generation: u32,
    },
}

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn words(self, sector: u64, generation: u32) -> impl Iterator<Item = u64> {
        let mut state = mix(self.seed ^ mix(sector) ^ u64::from(generation));
        let head = [MARK, sector, u64::from(generation), state];
        let body = std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        head.into_iter().chain(body).take(WORDS)
    }

    /// Writes the sectors from `first` on over `block`.
    pub(super) fn fill(self, block: &mut [u8], first: u64, generation: u32) {
        for (bytes, sector) in block.chunks_exact_mut(SECTOR_SIZE as usize).zip(first..) {
            for (bytes, word) in bytes.chunks_exact_mut(8).zip(self.words(sector, generation)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Compares `block`, which was read from sector `first` on.
    ///
    /// # Errors
    /// Where it differs, and what is there.
    pub(super) fn check(self, block: &[u8], first: u64, expected: Expected) -> Result<(), Mismatch> {
        for (bytes, sector) in block.chunks_exact(SECTOR_SIZE as usize).zip(first..) {
            let generation = match expected {
                Expected::Generation(generation) => generation,
                Expected::Any => word(bytes, 2) as u32,
            };
            let differs = |(nth, wanted): (usize, u64)| (word(bytes, nth) != wanted).then_some(nth);
            if let Some(nth) = self.words(sector, generation).enumerate().find_map(differs) {
                let wanted = self.words(sector, generation).nth(nth).unwrap_or(0);
                let same = (wanted ^ word(bytes, nth)).trailing_zeros() / 8;
                let at = sector * SECTOR_SIZE + nth as u64 * 8 + u64::from(same);
                return Err(Mismatch { at, expected, found: self.found(bytes, sector) });
            }
        }
        Ok(())
    }

    /// What a sector that should be `wanted` holds.
    fn found(self, bytes: &[u8], wanted: u64) -> Found {
        let (number, generation) = (word(bytes, 1), word(bytes, 2) as u32);
        let whole = self.words(number, generation).enumerate().all(|(nth, it)| word(bytes, nth) == it);
        if whole {
            Found::Sector { number, generation }
        } else if word(bytes, 0) == MARK && number == wanted {
            Found::Damaged { generation }
        } else if bytes.iter().all(|&byte| byte == 0) {
            Found::Zeroes
        } else {
            Found::Unknown
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sector = self.at / SECTOR_SIZE;
        write!(out, "byte {} (sector {sector}) is not what was written: ", self.at)?;
        match self.expected {
            Expected::Generation(generation) => write!(out, "expected is generation {generation}, ")?,
            Expected::Any => write!(out, "expected is what `--rw write --verify` of this seed leaves, ")?,
        }
        match self.found {
            Found::Zeroes => write!(out, "found are zeroes"),
            Found::Unknown => write!(out, "found is nothing of ours"),
            Found::Sector { number, generation } if number == sector => {
                write!(out, "found is generation {generation}")
            }
            Found::Sector { number, generation } => {
                write!(out, "found is sector {number}, generation {generation}")
            }
            Found::Damaged { generation } => write!(out, "found is generation {generation}, damaged"),
        }
    }
}

impl std::error::Error for Mismatch {}

fn word(bytes: &[u8], nth: usize) -> u64 {
    let bytes = bytes.get(nth * 8..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: Pattern = Pattern { seed: 7 };

    fn block(first: u64, generation: u32) -> Vec<u8> {
        let mut block = vec![0; 4096];
        PATTERN.fill(&mut block, first, generation);
        block
    }

    fn found(block: &[u8], expected: Expected) -> String {
        PATTERN.check(block, 8, expected).unwrap_err().to_string()
    }

    #[test]
    fn pattern_read_back_is_right_for_its_own_place_and_generation_only() {
        let ours = block(8, 3);
        assert_eq!(PATTERN.check(&ours, 8, Expected::Generation(3)), Ok(()));
        assert_eq!(PATTERN.check(&ours, 8, Expected::Any), Ok(()));
        assert!(Pattern::new(8).check(&ours, 8, Expected::Any).is_err());
        assert!(found(&ours, Expected::Generation(4)).ends_with("generation 4, found is generation 3"));
        let moved = block(16, 3);
        assert!(found(&moved, Expected::Any).ends_with("found is sector 16, generation 3"));
    }

    #[test]
    fn check_of_one_byte_changed_says_which() {
        for at in [0, 17, 32, 511, 512, 3000, 4095] {
            let mut block = block(8, 1);
            block[at] ^= 0x10;
            let mismatch = PATTERN.check(&block, 8, Expected::Generation(1)).unwrap_err();
            assert_eq!(mismatch.at, 8 * SECTOR_SIZE + at as u64);
        }
        let mut block = block(8, 1);
        block[600] = !block[600];
        assert!(found(&block, Expected::Generation(1)).ends_with("found is generation 1, damaged"));
    }

    #[test]
    fn check_of_a_torn_block_finds_the_other_generation() {
        let mut torn = block(8, 1);
        torn[2048..].copy_from_slice(&block(8, 2)[2048..]);
        assert!(found(&torn, Expected::Generation(1)).contains("(sector 12)"));
        assert_eq!(PATTERN.check(&torn, 8, Expected::Any), Ok(()));
    }

    #[test]
    fn check_tells_zeroes_from_strange_bytes() {
        assert!(found(&[0; 4096], Expected::Generation(1)).ends_with("found are zeroes"));
        assert!(found(&[0xa5; 4096], Expected::Any).ends_with("found is nothing of ours"));
    }
}
