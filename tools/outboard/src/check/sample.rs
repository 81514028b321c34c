//! One harmless request for each device type that we know, with what a right answer looks like.

use outboard_virtio_defs::blk::F_ZONED;
use outboard_virtio_defs::i2c::F_ZERO_LENGTH_REQUEST;
use outboard_virtio_defs::vsock;
use zerocopy::IntoBytes as _;

use super::cx::Cx;
use super::verdict::Checked;

/// What kind of device is behind the socket, as far as the checks know devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A block device
    Blk,
    /// A console device
    Console,
    /// A file system
    Fs,
    /// A GPIO controller
    Gpio,
    /// An I2C adapter
    I2c,
    /// An input device
    Input,
    /// A network card
    Net,
    /// An entropy device
    Rng,
    /// A platform that speaks SCMI
    Scmi,
    /// A SCSI host
    Scsi,
    /// A socket device
    Vsock,
    /// Some other device: rings are set up, but no requests are made
    Unknown,
}

/// A request and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The queue that takes it.
    pub(crate) queue: u16,
    /// The buffers that the device reads.
    pub(crate) readable: Vec<Vec<u8>>,
    /// The lengths of the buffers that the device writes.
    pub(crate) writable: Vec<u32>,
    /// Looks at how many bytes the device says it wrote, and at what is in the writable buffers, one after another.
    pub(crate) verify: fn(len: u32, written: &[u8]) -> Result<(), String>,
}

impl Sample {
    /// The same request in pieces of these lengths, over and over: where a buffer ends does not matter.
    pub(crate) fn cut(&self, lengths: &[usize]) -> Self {
        let mut lengths = lengths.iter().copied().cycle();
        let mut next = || lengths.next().unwrap_or(1).max(1);
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for buffer in &self.readable {
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(next().min(rest.len()));
                readable.push(piece.to_vec());
                rest = after;
            }
        }
        for &len in &self.writable {
            let mut rest = len;
            while rest > 0 {
                let piece = u32::try_from(next()).unwrap_or(rest).min(rest);
                writable.push(piece);
                rest -= piece;
            }
        }
        Self { queue: self.queue, readable, writable, verify: self.verify }
    }

    /// The same request in as few buffers as can be: one to read, one to write.
    pub(crate) fn merged(&self) -> Self {
        let readable = [self.readable.concat()].into_iter().filter(|bytes| !bytes.is_empty()).collect();
        let writable = [self.writable.iter().sum()].into_iter().filter(|&len| len != 0).collect();
        Self { queue: self.queue, readable, writable, verify: self.verify }
    }

    /// The same request in exactly so many buffers, if there are bytes for that.
    pub(crate) fn of_buffers(&self, count: usize) -> Option<Self> {
        let mut sample = self.merged();
        while sample.readable.len() + sample.writable.len() < count {
            if let Some(len) = sample.writable.iter_mut().max().filter(|len| **len > 1) {
                let half = *len / 2;
                *len -= half;
                sample.writable.push(half);
                continue;
            }
            let longest = (0..).zip(&sample.readable).max_by_key(|(_, bytes)| bytes.len());
            let at: usize = longest.filter(|(_, bytes)| bytes.len() > 1)?.0;
            let bytes = sample.readable.get_mut(at)?;
            let tail = bytes.split_off(bytes.len() / 2);
            sample.readable.insert(at + 1, tail);
        }
        Some(sample)
    }
}

impl Kind {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Console => "console",
            Self::Fs => "fs",
            Self::Gpio => "gpio",
            Self::I2c => "i2c",
            Self::Input => "input",
            Self::Net => "net",
            Self::Rng => "rng",
            Self::Scmi => "scmi",
            Self::Scsi => "scsi",
            Self::Vsock => "vsock",
            Self::Unknown => "unknown",
        }
    }

    /// Features without which a device of this type, that offers these, may serve nobody.
    pub(crate) fn needed(self, offered: u64) -> u64 {
        // VIRTIO 1.3, 5.2.5.2: a host-managed disk.
        let needed = match self {
            Self::Blk => F_ZONED,
            // VIRTIO 1.3, 5.16.3: mandatory.
            Self::I2c => F_ZERO_LENGTH_REQUEST,
            _ => 0,
        };
        offered & needed
    }

    /// What it looks like, from what it offers. Only where no other type looks the same.
    pub(crate) fn guess(cx: &Cx) -> Checked<Self> {
        let bits = |list: &[u32]| list.iter().fold(0u64, |mask, bit| mask | 1 << bit);
        let device = cx.offer.features & (0x00ff_ffff | !0 << 50);
        let has_config = cx.offer.has(outboard_vhost_user::ProtocolFeatures::CONFIG);
        // CSUM, MRG_RXBUF and the many of segmentation; SEG_MAX, BLK_SIZE, FLUSH.
        let (net, blk) = (bits(&[0, 15]), bits(&[2, 6]));
        Ok(match (device, cx.offer.queues) {
            _ if device & net == net => Self::Net,
            _ if has_config && device & blk == blk => Self::Blk,
            (F_ZERO_LENGTH_REQUEST, Some(1)) => Self::I2c,
            (0, Some(1)) if !has_config || cx.offer.queues == Some(1) => Self::Rng,
            _ => Self::Unknown,
        })
    }

    /// A request that changes nothing.
    pub(crate) fn sample(self) -> Option<Sample> {
        Some(match self {
            Self::Blk => Sample {
                queue: 0,
                // VIRTIO 1.3, 5.2.6: IN, sector 0.
                readable: vec![vec![0; 16]],
                writable: vec![512, 1],
                verify: |len, written| match (len, written.last()) {
                    (513, Some(0)) => Ok(()),
                    (513, Some(status)) => Err(format!("a read of sector 0 has status {status}")),
                    _ => Err(format!("a read of 512 bytes and its status has length {len}, not 513")),
                },
            },
            Self::Rng => Sample {
                queue: 0,
                readable: Vec::new(),
                writable: vec![64],
                verify: |len, written| match len {
                    1..=64 if written.iter().take(len as usize).any(|&byte| byte != 0) || len < 8 => Ok(()),
                    1..=64 => Err(format!("{len} bytes of entropy, all zero")),
                    _ => Err(format!("64 bytes of entropy asked for, length {len} returned")),
                },
            },
            Self::Gpio => Sample {
                queue: 0,
                // VIRTIO 1.3, 5.18.6.3: which way line 0 goes.
                readable: vec![vec![2, 0, 0, 0, 0, 0, 0, 0]],
                writable: vec![2],
                verify: |len, written| match (len, written) {
                    (2, [0, 0..=2]) => Ok(()),
                    (2, answer) => Err(format!("GET_DIRECTION of line 0 was answered with {answer:?}")),
                    _ => Err(format!("the answer to GET_DIRECTION has length {len}, not 2")),
                },
            },
            Self::I2c => Sample {
                queue: 0,
                // VIRTIO 1.3, 5.16.6: nothing is written to 0x03, an address that no chip has.
                readable: vec![vec![6, 0, 0, 0, 0, 0, 0, 0]],
                writable: vec![1],
                verify: |len, written| match (len, written) {
                    (1, [0 | 1]) => Ok(()),
                    (1, [status]) => Err(format!("a request of an I2C adapter has status {status}")),
                    _ => Err(format!("the status of an I2C request has length {len}, not 1")),
                },
            },
            Self::Input => Sample {
                queue: 1,
                // VIRTIO 1.3, 5.8.6: the light of the first kind is off.
                readable: vec![vec![0x11, 0, 0, 0, 0, 0, 0, 0]],
                writable: Vec::new(),
                verify: |len, _| match len {
                    0 => Ok(()),
                    _ => Err(format!("an event of the driver has length {len}, not 0")),
                },
            },
            Self::Scmi => Sample {
                queue: 0,
                // VIRTIO 1.3, 5.17.6.1: which version of the base protocol there is.
                readable: vec![SCMI_VERSION.to_vec()],
                writable: vec![32],
                verify: |len, written| match (len, written.split_at_checked(4)) {
                    (12, Some((header, rest))) if header == SCMI_VERSION && rest.starts_with(&[0; 4]) => {
                        Ok(())
                    }
                    (12, Some((header, _))) => Err(format!("no success, or the header {header:x?}")),
                    _ => Err(format!("an answer of 12 bytes has length {len}")),
                },
            },
            Self::Console => Sample {
                // VIRTIO 1.3, 5.3.6: a line on the console.
                queue: 1,
                readable: vec![b"outboard check\r\n".to_vec()],
                writable: Vec::new(),
                verify: |len, _| match len {
                    0 => Ok(()),
                    _ => Err(format!("output has length {len}, not 0")),
                },
            },
            Self::Net => Sample {
                // A frame to nobody: a locally administered address, EtherType "local experimental".
                queue: 1,
                readable: vec![vec![0; 12], net_frame()],
                writable: Vec::new(),
                verify: |len, _| match len {
                    0 => Ok(()),
                    _ => Err(format!("a frame sent has length {len}, not 0")),
                },
            },
            Self::Vsock => Sample {
                // The end of a connection that there is not, which nobody answers.
                queue: 1,
                readable: vec![vsock_reset()],
                writable: Vec::new(),
                verify: |len, _| match len {
                    0 => Ok(()),
                    _ => Err(format!("a packet sent has length {len}, not 0")),
                },
            },
            Self::Fs => Sample {
                // The first request queue: FUSE_INIT, 7.31.
                queue: 1,
                readable: vec![fuse_init()],
                writable: vec![80],
                verify: |len, written| {
                    let word = |at: usize| {
                        let bytes = written.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                        bytes.map_or(u32::MAX, u32::from_le_bytes)
                    };
                    match (word(0), word(4)) {
                        (said, 0) if said == len && len > 16 => Ok(()),
                        (said, error) => Err(format!("FUSE_INIT: {said} bytes, error {error}, length {len}")),
                    }
                },
            },
            Self::Scsi => Sample {
                // VIRTIO 1.3, 5.6.6: REPORT LUNS to LUN 0 of target 0 on the first request queue.
                queue: 2,
                readable: vec![scsi_report_luns()],
                writable: vec![108, 64],
                verify: |len, written| match written.get(11) {
                    // Any answer of the target will do: OK, or that there is none.
                    Some(0 | 3) if len >= 12 => Ok(()),
                    other => Err(format!("REPORT LUNS: response {other:?}, length {len}")),
                },
            },
            Self::Unknown => return None,
        })
    }
}

/// A command: message 0 of protocol 0x10, token 5.
const SCMI_VERSION: [u8; 4] = (0x10_u32 << 10 | 5 << 18).to_le_bytes();

/// VIRTIO 1.3, 5.10.6: of guest 3, whoever it is.
fn vsock_reset() -> Vec<u8> {
    let header = vsock::Header {
        src_cid: vsock::CID_FIRST.into(),
        dst_cid: vsock::CID_HOST.into(),
        src_port: 1.into(),
        dst_port: 1.into(),
        kind: vsock::TYPE_STREAM.into(),
        op: vsock::OP_RST.into(),
        ..vsock::Header::default()
    };
    header.as_bytes().to_vec()
}

fn net_frame() -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 0xfd, 0x88, 0xb5];
    frame.resize(60, 0x5a);
    frame
}

fn fuse_init() -> Vec<u8> {
    let (len, opcode) = (40u32 + 16, 26u32);
    let mut request = Vec::new();
    request.extend_from_slice(&len.to_le_bytes());
    request.extend_from_slice(&opcode.to_le_bytes());
    request.extend_from_slice(&1u64.to_le_bytes());
    request.resize(40, 0);
    for word in [7u32, 31, 0x1_0000, 0] {
        request.extend_from_slice(&word.to_le_bytes());
    }
    request
}

fn scsi_report_luns() -> Vec<u8> {
    // LUN (1, target, 0x40, lun), id, task attributes, then the command descriptor block.
    let mut request = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
    request.extend_from_slice(&1u64.to_le_bytes());
    request.extend_from_slice(&[0; 3]);
    let mut command = vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    command.resize(32, 0);
    request.extend_from_slice(&command);
    request
}
