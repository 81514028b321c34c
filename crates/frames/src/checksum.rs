//! The Internet checksum (RFC 1071): the ones' complement of a ones' complement sum of 16-bit numbers.

use zerocopy::network_endian::U16;

/// A sum that grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// With these bytes, at an even distance from the first. An odd one at the end counts as if a zero followed.
    #[must_use]
    pub fn plus(self, bytes: &[u8]) -> Self {
        // In the machine's byte order, which only swaps the bytes of the sum (RFC 1071, 2 (B)). Each step adds less
        // than 2^32: no frame is long enough to overflow.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, &word| sum + u64::from(u32::from_ne_bytes(word)));
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// With a number.
    #[must_use]
    pub fn plus_number(self, number: u32) -> Self {
        self.plus(&number.to_be_bytes())
    }

    /// Not the checksum, but what it is the complement of: what a driver leaves in its place if somebody else is to
    /// complete it (VIRTIO 1.3, 5.1.6.2).
    #[must_use]
    pub fn partial(self) -> U16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        U16::from_bytes((sum as u16).to_ne_bytes())
    }

    /// Whether what was summed up, with its checksum, is right.
    #[must_use]
    pub fn is_right(self) -> bool {
        self.partial() == U16::MAX_VALUE
    }

    /// The checksum. Never 0: that says in UDP that there is none, and is as good as 0xffff elsewhere.
    #[must_use]
    pub fn checksum(self) -> U16 {
        match !self.partial().get() {
            0 => U16::MAX_VALUE,
            checksum => checksum.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sum;
    use proptest::prelude::*;

    #[test]
    fn checksum_of_the_rfcs_example_is_the_rfcs() {
        let sum = Sum::default().plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum().get(), !0xddf2);
    }

    #[test]
    fn checksum_that_would_be_zero_is_its_twin() {
        assert_eq!(Sum::default().plus(&[0xff, 0xff]).checksum().get(), 0xffff);
        assert_eq!(Sum::default().checksum().get(), 0xffff);
    }

    proptest! {
        #[test]
        fn checksum_of_pieces_is_that_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            cut in 0..1500_usize,
        ) {
            let (front, back) = bytes.split_at((2 * cut).min(bytes.len()));
            let ours = Sum::default().plus(front).plus(back).checksum().get();
            let theirs = !sum(&bytes);
            prop_assert_eq!(ours, if theirs == 0 { 0xffff } else { theirs });
        }
    }
}
