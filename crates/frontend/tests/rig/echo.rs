//! A network device that receives what it transmits.

use std::collections::VecDeque;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use outboard_backend::{Backend, EngineChoice, Options as BackendOptions, Polling, Stop};
use outboard_device::defs::DeviceId;
use outboard_device::defs::net::{Config, F_MAC, F_MRG_RXBUF, HEADER_LEN, Header};
use outboard_device::{Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile, QueueId};
use outboard_frontend::{Frontend, Options};
use zerocopy::IntoBytes;

use super::LONG;

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];

/// What is transmitted on a pair is received on it.
struct Echo {
    profile: Profile,
    config: Config,
}

impl Echo {
    fn new(pairs: u16) -> Self {
        let mut profile = Profile::new(DeviceId::NET, "net").feature(F_MRG_RXBUF | F_MAC);
        for _ in 0..pairs {
            profile = profile.parallel_queues("receiveq", 256, 1).queue("transmitq", 256);
        }
        Self { profile, config: Config { mac: MAC, ..Config::default() } }
    }
}

impl Device for Echo {
    type Handler = EchoPair;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn handler(&mut self, group: Group, agreed: Features) -> Result<EchoPair, DeviceError> {
        let rx = QueueId(group.0 * 2);
        Ok(EchoPair {
            rx,
            mergeable: agreed.has(F_MRG_RXBUF),
            posted: VecDeque::new(),
            packets: VecDeque::new(),
        })
    }
}

struct EchoPair {
    rx: QueueId,
    mergeable: bool,
    posted: VecDeque<Chain>,
    packets: VecDeque<Vec<u8>>,
}

impl EchoPair {
    /// Delivers what there is room for.
    fn pump(&mut self, cx: &mut Cx<'_, ()>) {
        while let Some(packet) = self.packets.front() {
            let mut room = 0;
            let fits = self.posted.iter().position(|chain| {
                room += chain.writable_len();
                room >= packet.len()
            });
            let Some(last) = fits.filter(|last| self.mergeable || *last == 0) else { return };
            let mut packet = self.packets.pop_front().unwrap();
            let header = Header { num_buffers: (last as u16 + 1).into(), ..Header::default() };
            packet[..HEADER_LEN].copy_from_slice(header.as_bytes());
            let mut rest = packet.as_slice();
            for mut chain in self.posted.drain(..=last) {
                let (now, later) = rest.split_at(rest.len().min(chain.writable_len()));
                chain.write_all(now).unwrap();
                rest = later;
                let _ = cx.done(chain);
            }
        }
    }
}

impl Handler for EchoPair {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if chain.queue() == self.rx {
            self.posted.push_back(chain);
            self.pump(cx);
            return Flow::Next;
        }
        let mut packet = vec![0; chain.readable_len()];
        chain.read_exact(&mut packet).unwrap();
        self.packets.push_back(packet);
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

/// A front end before a back end that echoes. The thread ends with the connection.
pub(crate) fn echo(pairs: u16, engine: EngineChoice) -> (Frontend, JoinHandle<()>) {
    let (ours, thread) = serve(pairs, engine);
    (Frontend::from_stream(ours, patient_with_memory()).unwrap(), thread)
}

/// The front end's end of a connection to such a back end.
pub(crate) fn serve(pairs: u16, engine: EngineChoice) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        let options = BackendOptions { engine, polling: Polling::Off, ..BackendOptions::default() };
        let mut backend = Backend::new(Echo::new(pairs), options).unwrap();
        backend.serve(theirs, &Stop::new().unwrap()).unwrap();
    });
    (ours, thread)
}

/// With time for everything, and room for many buffers.
pub(crate) fn patient_with_memory() -> Options {
    Options { timeout: LONG, ..Options::default() }
}

/// A back end that echoes, for one front end after the other.
pub(crate) struct EchoServer {
    /// What ends the connection that is served.
    stop: Arc<Mutex<Stop>>,
    listener: UnixListener,
    thread: JoinHandle<()>,
}

impl EchoServer {
    pub(crate) fn listen(path: &Path, pairs: u16) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let stop = Arc::new(Mutex::new(Stop::new().unwrap()));
        let (accepting, current) = (listener.try_clone().unwrap(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let options = BackendOptions { polling: Polling::Off, ..BackendOptions::default() };
            let mut backend = Backend::new(Echo::new(pairs), options).unwrap();
            while let Ok((stream, _)) = accepting.accept() {
                let stop = current.lock().unwrap().clone();
                backend.serve(stream, &stop).unwrap();
            }
        });
        Self { stop, listener, thread }
    }

    /// Ends the connection that is served.
    pub(crate) fn drop_connection(&self) {
        // The next one is served until the next call.
        let mut stop = self.stop.lock().unwrap();
        std::mem::replace(&mut *stop, Stop::new().unwrap()).trigger();
    }

    /// Serves no more, once the connection is over.
    pub(crate) fn end(self) {
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
        self.thread.join().unwrap();
    }
}
