//! Bytes of a hostile NBD server against the client's half of the protocol: nothing panics, what is wanted next is
//! bounded, and no reply takes more bytes than there are.
//!
//! Input: a byte that says what is wanted, then what the server says: the handshake, and if it gets that far, replies.
//! Reads are of 64 KiB at position 4096.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outboard_nbd::{Gaps, Handshake, Reply, Step, Terms};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    if choice & 2 == 0 {
        let mut handshake = Handshake::new(Terms { export: "disk".into(), tls: choice & 1 != 0 });
        loop {
            let wanted = handshake.wanted();
            assert!((1..=16 << 10).contains(&wanted));
            let Some(bytes) = rest.split_off(..wanted) else { return };
            match handshake.receive(bytes) {
                Ok(Step::Send(_)) => {}
                Ok(Step::Encrypt) => assert!(!handshake.encrypted().is_empty()),
                Ok(Step::Ready(export)) => {
                    assert!(export.minimum_block.is_power_of_two() && export.minimum_block <= 64 << 10);
                    assert!(export.maximum_payload >= export.minimum_block);
                    assert_eq!(export.maximum_payload % export.minimum_block, 0);
                    break;
                }
                Err(_) => return,
            }
        }
    }
    let mut gaps = Gaps::default();
    gaps.reset(64 << 10);
    let mut filled = 0_u64;
    while let Ok(Some((reply, len))) = Reply::decode(rest, choice & 4 != 0) {
        assert!(len <= rest.len());
        rest = &rest[len..];
        match reply {
            Reply::Data { offset, len, .. } | Reply::Hole { offset, len, .. } => {
                let Ok(at) = gaps.fill(4096, offset, len) else { return };
                assert_eq!(u64::from(at) + 4096, offset);
                filled += u64::from(len);
                assert!(filled <= 64 << 10);
                assert_eq!(gaps.is_filled(), filled == 64 << 10);
                if let Reply::Data { .. } = reply {
                    rest = rest.get(len as usize..).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
});
