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
        Ok(EchoPair { rx, mergeable: agreed.has(F_MRG_RXBUF), packets: VecDeque::new() })
    }
}

struct EchoPair {
    rx: QueueId,
    mergeable: bool,
    packets: VecDeque<Vec<u8>>,
}

/// Where a packet's header says in how many buffers it is.
const AT_NUM_BUFFERS: usize = HEADER_LEN - 2;

impl EchoPair {
    /// Delivers the oldest packet. False if there is none, or not enough room for it.
    fn deliver(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let Some(packet) = self.packets.front() else { return false };
        let (mut chains, mut room) = (Vec::new(), 0);
        while room < packet.len() && (self.mergeable || chains.is_empty()) {
            let Some(chain) = cx.pop(self.rx) else { break };
            room += chain.writable_len();
            chains.push(chain);
        }
        if room < packet.len() {
            chains.into_iter().for_each(|chain| cx.put_back(chain));
            return false;
        }
        let mut rest = packet.as_slice();
        for chain in &mut chains {
            let (now, later) = rest.split_at(rest.len().min(chain.writable_len()));
            chain.write_all(now).unwrap();
            rest = later;
        }
        let num_buffers = chains.len() as u16;
        chains[0].rewrite(AT_NUM_BUFFERS, &num_buffers.to_le_bytes()).unwrap();
        cx.done_together(chains);
        self.packets.pop_front();
        true
    }
}

impl Handler for EchoPair {
    type Op = ();

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && queue == self.rx {
            cx.keep(queue);
        }
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        assert_ne!(chain.queue(), self.rx, "it is kept");
        let mut packet = vec![0; chain.readable_len()];
        chain.read_exact(&mut packet).unwrap();
        packet[..HEADER_LEN].copy_from_slice(Header::default().as_bytes());
        self.packets.push_back(packet);
        cx.done(chain)
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let before = self.packets.len();
        while self.deliver(cx) {}
        self.packets.len() != before
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
