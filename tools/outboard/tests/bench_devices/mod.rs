//! Devices for the tests of the benchmark, served by this process: a disk that lies, networks that echo, send, and
//! lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::VecDeque;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use outboard_backend::{Backend, Options, Polling, Stop};
use outboard_device::defs::DeviceId;
use outboard_device::defs::blk::{
    Config, F_FLUSH, F_MQ, F_SEG_MAX, F_SIZE_MAX, RequestHeader, S_OK, T_IN, T_OUT,
};
use outboard_device::defs::net::{F_MRG_RXBUF, HEADER_LEN, Header};
use outboard_device::{Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile, QueueId};
use zerocopy::IntoBytes;

/// A back end in a thread, at a socket of its own. Ended when dropped.
pub(crate) struct Serving {
    dir: tempfile::TempDir,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves connections, one after the other.
    pub(crate) fn start<D: Device + 'static>(device: D) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let stop = Stop::new().unwrap();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let options = Options { polling: Polling::Off, ..Options::default() };
            let mut backend = Backend::new(device, options).unwrap();
            while !stopped.is_set() {
                let (stream, _) = listener.accept().unwrap();
                // A front end that gives up in the middle is no fault of the device.
                let _ = backend.serve(stream, &stopped);
            }
        });
        Self { dir, stop, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> String {
        self.dir.path().join("socket").to_str().unwrap().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.trigger();
        // In case it waits for somebody to connect.
        let _ = UnixStream::connect(self.socket());
        let _ = self.thread.take().unwrap().join();
    }
}

/// A disk that changes one byte of what is read.
pub(crate) struct Liar {
    profile: Profile,
    config: Config,
    disk: LiarQueue,
}

impl Liar {
    /// The byte is number `byte` of sector `sector`. A request has at most four segments of `size_max` bytes, of any
    /// size if that is 0.
    pub(crate) fn new(sectors: u64, sector: u64, byte: usize, size_max: u32) -> Self {
        let profile = Profile::new(DeviceId::BLK, "blk").feature(F_FLUSH | F_MQ | F_SIZE_MAX | F_SEG_MAX);
        let config = Config {
            capacity: sectors.into(),
            size_max: size_max.into(),
            seg_max: 4.into(),
            num_queues: 2.into(),
            ..Config::default()
        };
        let data = Arc::new(Mutex::new(vec![0; sectors as usize * 512]));
        let disk = LiarQueue { data, lie: sector as usize * 512 + byte };
        Self { profile: profile.parallel_queues("requestq", 256, 2), config, disk }
    }
}

impl Device for Liar {
    type Handler = LiarQueue;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<LiarQueue, DeviceError> {
        Ok(self.disk.clone())
    }
}

#[derive(Clone)]
pub(crate) struct LiarQueue {
    data: Arc<Mutex<Vec<u8>>>,
    lie: usize,
}

impl Handler for LiarQueue {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let status = chain.split_status().unwrap();
        let header: RequestHeader = chain.read_obj().unwrap();
        let start = header.sector.get() as usize * 512;
        let mut data = self.data.lock().unwrap();
        match header.kind.get() {
            T_IN => {
                let range = start..start + chain.writable_len();
                let mut bytes = data[range.clone()].to_vec();
                if range.contains(&self.lie) {
                    bytes[self.lie - start] ^= 0x20;
                }
                chain.write_all(&bytes).unwrap();
            }
            T_OUT => {
                let end = start + chain.readable_len();
                chain.read_exact(&mut data[start..end]).unwrap();
            }
            _ => {}
        }
        chain.set_status(status, S_OK);
        cx.done(chain)
    }
}

/// What a network does.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Sends back what it is sent.
    Echo,
    /// The same, but for each tenth.
    Forget,
    /// The same, with a byte changed in each.
    Lie,
    /// Sends packets of 100 bytes whenever there is room, and forgets what it is sent.
    Source,
}

/// A network of some manner.
pub(crate) struct Network {
    profile: Profile,
    manner: Manner,
}

impl Network {
    pub(crate) fn echo(pairs: u16) -> Self {
        Self::new(Manner::Echo, pairs)
    }

    pub(crate) fn liar() -> Self {
        Self::new(Manner::Lie, 1)
    }

    pub(crate) fn forgetful() -> Self {
        Self::new(Manner::Forget, 1)
    }

    pub(crate) fn source(pairs: u16) -> Self {
        Self::new(Manner::Source, pairs)
    }

    fn new(manner: Manner, pairs: u16) -> Self {
        let mut profile = Profile::new(DeviceId::NET, "net").feature(F_MRG_RXBUF).in_order();
        for _ in 0..pairs {
            profile = profile.parallel_queues("receiveq", 256, 1).queue("transmitq", 256);
        }
        Self { profile, manner }
    }
}

impl Device for Network {
    type Handler = Pair;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, group: Group, _: Features) -> Result<Pair, DeviceError> {
        let rx = QueueId(group.0 * 2);
        Ok(Pair { rx, manner: self.manner, sent: 0, posted: VecDeque::new(), packets: VecDeque::new() })
    }
}

pub(crate) struct Pair {
    rx: QueueId,
    manner: Manner,
    sent: u32,
    posted: VecDeque<Chain>,
    packets: VecDeque<Vec<u8>>,
}

impl Pair {
    /// Hands packets over as long as there are buffers for them; each fits in one.
    fn pump(&mut self, cx: &mut Cx<'_, ()>) {
        while !self.posted.is_empty() && !self.packets.is_empty() {
            let (mut chain, packet) = (self.posted.pop_front().unwrap(), self.packets.pop_front().unwrap());
            let header = Header { num_buffers: 1.into(), ..Header::default() };
            chain.write_all(header.as_bytes()).unwrap();
            chain.write_all(&packet).unwrap();
            let _ = cx.done(chain);
        }
    }
}

impl Handler for Pair {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if chain.queue() == self.rx {
            self.posted.push_back(chain);
            if self.manner == Manner::Source {
                self.packets.push_back(vec![7; 100]);
            }
            self.pump(cx);
            return Flow::Next;
        }
        let mut packet = vec![0; chain.readable_len()];
        chain.read_exact(&mut packet).unwrap();
        let mut packet = packet.split_off(HEADER_LEN);
        if self.manner == Manner::Lie {
            // In the number that the benchmark gave it.
            packet[18] ^= 1;
        }
        self.sent += 1;
        let forgotten = self.manner == Manner::Forget && self.sent.is_multiple_of(10);
        if self.manner != Manner::Source && !forgotten {
            self.packets.push_back(packet);
        }
        let flow = cx.done(chain);
        self.pump(cx);
        flow
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        if queue == self.rx {
            while let Some(chain) = self.posted.pop_back() {
                let _ = cx.wait(chain);
            }
        }
    }
}
