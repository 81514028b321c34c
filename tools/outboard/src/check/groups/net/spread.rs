//! Receive-side scaling: the pair that a packet goes to is the one that the driver's table has for the packet's hash.

use std::time::{Duration, Instant};

use outboard_virtio_defs::net::{Config, F_MQ, F_RSS, HASH_TYPE_UDPV4, HEADER_LEN};
use outboard_virtio_defs::net_control::Command;
use zerocopy::FromBytes;

use super::control::{Controlled, each};
use super::frame::Inside;
use super::needs_loop;
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.rss-table",
        title: "a packet is received on the pair that the table has for the lowest bits of its hash",
        spec: "VIRTIO 1.3, 5.1.6.4.3.4",
        run: table,
    },
    Check {
        id: "net.rss-key",
        title: "packets are hashed by the last key",
        spec: "VIRTIO 1.3, 5.1.6.4.3.4 and 5.1.6.5.7",
        run: key,
    },
    Check {
        id: "net.rss-unclassified",
        title: "packets without a hash are received on the pair that is for them",
        spec: "VIRTIO 1.3, 5.1.6.4.3.4",
        run: unclassified,
    },
    Check {
        id: "net.rss-values",
        title: "tables and keys that cannot be are refused, and change nothing",
        spec: "VIRTIO 1.3, 5.1.6.5.7 (a driver must not; a guest can)",
        run: values,
    },
];

/// Flows that are looked at.
const FLOWS: u16 = 24;

/// An interface with two pairs that spreads.
struct Spreading<'a> {
    device: &'a mut Controlled,
    /// The places of the receive queues among the session's rings.
    rx: [usize; 2],
    key_len: usize,
}

/// Numbers without rhyme.
fn key_of(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(167).wrapping_add(seed).rotate_left(at as u32 % 8)).collect()
}

/// The hash of Toeplitz, bit by bit (VIRTIO 1.3, 5.1.6.4.3.4).
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte & 0x80 >> (at % 8) != 0);
    let window = |at: usize| (0..32).fold(0, |window, next| window << 1 | u32::from(bit(key, at + next)));
    (0..8 * input.len()).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}

/// A datagram of a flow, and its hash.
fn datagram(flow: u16, key: &[u8]) -> (Vec<u8>, u32) {
    let mut frame = Inside::Udp4.frame(&flow.to_be_bytes());
    frame.splice(34..36, (1000 + flow).to_be_bytes());
    // It has no checksum.
    frame.splice(40..42, [0, 0]);
    let hash = toeplitz(key, frame.get(26..38).unwrap_or_default());
    (frame, hash)
}

fn spreading(cx: &mut Cx, mut body: impl FnMut(&mut Spreading<'_>) -> Checked) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_MQ | F_RSS, "MQ and RSS")?;
    each(cx, F_MQ | F_RSS, |device| {
        if device.pairs < 2 {
            return Err(Stop::NotApplicable("there is one pair".to_owned()));
        }
        let session = &mut device.nic.session;
        let data = session.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
        let config = Config::read_from_bytes(&data).map_err(|_| Stop::lacks("a configuration"))?;
        if config.supported_hash_types.get() & HASH_TYPE_UDPV4 == 0 {
            return Err(Stop::lacks("hashes of UDP over IPv4"));
        }
        let key_len = usize::from(config.rss_max_key_size);
        let (rx, tx) = (session.add_ring(2)?, session.add_ring(3)?);
        session.start(rx)?;
        session.start(tx)?;
        let mut spreading = Spreading { device, rx: [0, rx], key_len };
        for queue in spreading.rx {
            spreading.device.nic.post_on(queue, 32, 2048)?;
        }
        body(&mut spreading)
    })
}

impl Spreading<'_> {
    fn command(mask: u16, table: &[u16], unclassified: u16, key: &[u8]) -> Vec<u8> {
        let mut data = HASH_TYPE_UDPV4.to_le_bytes().to_vec();
        data.extend([mask, unclassified].map(u16::to_le_bytes).as_flattened());
        data.extend(table.iter().flat_map(|pair| pair.to_le_bytes()));
        data.extend(2_u16.to_le_bytes());
        data.push(key.len() as u8);
        data.extend_from_slice(key);
        data
    }

    fn set(&mut self, table: &[u16], unclassified: u16, key: &[u8]) -> Checked {
        let mask = u16::try_from(table.len())?.wrapping_sub(1);
        self.device.done(Command::MQ_RSS_CONFIG, &Self::command(mask, table, unclassified, key))
    }

    /// The pair on which a packet is received that is sent on the first one.
    fn pair_of(&mut self, frame: &[u8]) -> Checked<u16> {
        let nic = &mut self.device.nic;
        nic.send_on(1, vec![vec![0; HEADER_LEN], frame.to_vec()], Vec::new())?;
        let patience = nic.session.patience;
        let deadline = Instant::now() + patience;
        loop {
            for (pair, queue) in (0..).zip(self.rx) {
                if let Some(came) = nic.receive_on(queue, Duration::from_millis(1))? {
                    nic.post_on(queue, 1, 2048)?;
                    if came.frame == frame {
                        return Ok(pair);
                    }
                }
            }
            ensure!(Instant::now() < deadline, "what was sent did not come back within {patience:?}");
        }
    }

    /// All flows go where this table has them.
    fn follows(&mut self, table: &[u16], key: &[u8]) -> Checked {
        for flow in 0..FLOWS {
            let (frame, hash) = datagram(flow, key);
            let at = hash as usize % table.len().max(1);
            let (pair, wanted) = (self.pair_of(&frame)?, table.get(at).copied().unwrap_or(0));
            ensure!(
                pair == wanted,
                "a packet with the hash {hash:#010x} came on pair {pair}; entry {at} of {} is {wanted}",
                table.len()
            );
        }
        Ok(())
    }
}

fn table(cx: &mut Cx) -> Checked {
    spreading(cx, |device| {
        let key = key_of(1, device.key_len);
        for table in [&[0, 1, 1, 0][..], &[1, 0, 1, 1, 0, 0, 1, 0], &[1], &[0, 1]] {
            device.set(table, 0, &key)?;
            device.follows(table, &key)?;
        }
        Ok(())
    })
}

fn key(cx: &mut Cx) -> Checked {
    spreading(cx, |device| {
        for seed in [1, 99] {
            let key = key_of(seed, device.key_len);
            device.set(&[0, 1], 0, &key)?;
            device.follows(&[0, 1], &key)?;
        }
        Ok(())
    })
}

fn unclassified(cx: &mut Cx) -> Checked {
    spreading(cx, |device| {
        let key = key_of(1, device.key_len);
        for (other, hashed) in [(1, 0), (0, 1)] {
            device.set(&[hashed], other, &key)?;
            let frame = device.device.nic.tagged(60);
            let pair = device.pair_of(&frame)?;
            ensure!(pair == other, "a packet without a hash came on pair {pair}, not {other}");
        }
        Ok(())
    })
}

fn values(cx: &mut Cx) -> Checked {
    spreading(cx, |device| {
        let key = key_of(1, device.key_len);
        device.set(&[1, 0], 1, &key)?;
        let (most, long) = (device.device.pairs, vec![0; device.key_len + 1]);
        for (mask, table, other, key) in [
            (2, &[0, 0, 0][..], 0, &key),
            (1, &[0, most], 0, &key),
            (0, &[0], most, &key),
            (0, &[0], 0, &long),
            (3, &[0], 0, &key),
        ] {
            device.device.refused(Command::MQ_RSS_CONFIG, &Spreading::command(mask, table, other, key))?;
        }
        device.follows(&[1, 0], &key)
    })
}
