//! Whether bytes look random: coarse bounds that a working source passes always
//! (far beyond one in 10^12) and a broken one, such as zeroes, repeats, text or
//! a counter, does not.

use anyhow::{Result, ensure};

/// An error that says why `bytes` (at least 4 KiB) are not random.
pub(super) fn judge(bytes: &[u8]) -> Result<()> {
    ensure!(bytes.len() >= 4096, "too few bytes to judge");
    #[expect(clippy::cast_precision_loss, reason = "a few kilobytes are exact")]
    let length = bytes.len() as f64;

    let longest = bytes.chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap_or(0);
    ensure!(longest < 9, "one byte repeats {longest} times in a row");

    let mut counts = [0_u32; 256];
    for &byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    // Chi-squared with 255 degrees of freedom: mean 255, deviation 22.6.
    let expected = length / 256.0;
    let squares: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2)).sum();
    let chi = squares / expected;
    ensure!((60.0..=480.0).contains(&chi), "the bytes' distribution is off: chi-squared {chi:.0}");

    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    let deviation = (f64::from(ones) - length * 4.0).abs() / (length * 2.0).sqrt();
    ensure!(deviation < 8.0, "ones and zeroes are out of balance by {deviation:.1} deviations");

    // The same 8 bytes twice: a repeating source, or two readers fed alike.
    let mut words: Vec<&[u8]> = bytes.chunks_exact(8).collect();
    words.sort_unstable();
    ensure!(words.windows(2).all(|pair| pair.first() != pair.last()), "eight bytes appear twice");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::mix;

    #[test]
    fn judge_of_mixed_numbers_passes() {
        let bytes: Vec<u8> = (0..1000_u64).flat_map(|number| mix(number + 1).to_le_bytes()).collect();
        judge(&bytes).unwrap();
    }

    #[test]
    fn judge_of_broken_sources_refuses() {
        let counter: Vec<u8> = (0..2000_u32).flat_map(u32::to_le_bytes).collect();
        let random: Vec<u8> = (0..512_u64).flat_map(|number| mix(number + 1).to_le_bytes()).collect();
        for bytes in [vec![0; 8192], counter, b"some text ".repeat(800), [random.clone(), random].concat()] {
            assert!(judge(&bytes).is_err());
        }
    }
}
