//! Headers and frames of a hostile guest against what judges them: what passes is said again by the header that is made
//! of it, and can be done here, with nothing lost and nothing too long.
//!
//! Input: a byte that says which offloads were agreed, the header, and the frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outboard_frames::{L3, Layers, Limits, MAX_HEADERS, MAX_SEGMENTS, Offload, Takes, check, hash, plain};
use outboard_virtio_defs::net::{
    F_CSUM, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, HEADER_LEN, Header,
};
use zerocopy::FromBytes;

const OFFLOADS: [u64; 6] = [F_CSUM, F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN, F_HOST_UFO, F_HOST_USO];
const MTU: u32 = 1500;

fuzz_target!(|data: &[u8]| {
    let Some((agreed, rest)) = data.split_first() else { return };
    let Some((header, frame)) = rest.split_first_chunk::<HEADER_LEN>() else { return };
    let header = Header::read_from_bytes(header).expect("a header of its length");
    let bits = OFFLOADS.iter().enumerate().filter(|(bit, _)| agreed >> bit & 1 != 0);
    let takes = Takes::by_device(bits.map(|(_, feature)| feature).sum());
    let (len, head) = (frame.len() as u32, &frame[..frame.len().min(MAX_HEADERS)]);

    if let Some(layers) = Layers::parse(head) {
        assert!(layers.l3_at <= layers.l4_at && layers.l4_at <= layers.end);
        assert!(usize::from(layers.end) <= head.len());
        assert_eq!(hash(&[0x5a; 40], head, &layers, u32::MAX).is_some(), layers.l3 != L3::Other);
    }

    let limits = Limits { takes, mtu: MTU };
    let Ok(offload) = check(&header, len, head, &limits) else { return };
    assert!(takes.has(&offload));
    assert_eq!(check(&offload.header(), len, head, &limits), Ok(offload));
    let (mut count, mut bytes) = (0, 0);
    plain(&offload, &mut frame.to_vec(), |frame| {
        assert!(frame.len() <= MTU as usize + 22);
        count += 1;
        bytes += frame.len();
    });
    assert!((1..=MAX_SEGMENTS).contains(&count) && bytes >= frame.len());
    assert!(count == 1 || matches!(offload, Offload::Segments(_)));
});
