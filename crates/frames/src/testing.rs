//! For tests of whoever makes or passes on frames. Not for programs.

/// The sum of RFC 1071, the plain way, as a second opinion: 0xffff for bytes that hold their own checksum.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let mut word = [0; 2];
        word.iter_mut().zip(pair).for_each(|(to, from)| *to = *from);
        let (sum, carried) = sum.overflowing_add(u16::from_be_bytes(word));
        sum + u16::from(carried)
    })
}
