//! The control queue of a network device, and changes of its configuration, against a device that notes what it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_backend::{Backend, Options as BackendOptions, Polling, Stop};
use outboard_device::defs::DeviceId;
use outboard_device::defs::net::{Config, F_CTRL_VLAN, F_CTRL_VQ, F_MQ, F_STATUS, S_LINK_UP};
use outboard_device::defs::net_control::{Coalescing, Command, ERR, OK};
use outboard_device::{Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile, QueueId};
use outboard_frontend::drivers::{Net, NetOptions, Rss};
use outboard_frontend::{Error, Format, Frontend, Options, Wishes};
use zerocopy::IntoBytes;

const LONG: Duration = Duration::from_secs(60);

/// What the device was told, each command with its queue.
type Told = Arc<Mutex<Vec<(u16, Vec<u8>)>>>;

/// Two pairs and a control queue, of which the second command of class 2 is refused.
struct Noting {
    profile: Profile,
    config: Config,
    told: Told,
    link: Arc<AtomicBool>,
}

impl Device for Noting {
    type Handler = Queues;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<Queues, DeviceError> {
        let control = QueueId(if agreed.has(F_MQ) { 4 } else { 2 });
        Ok(Queues { control, told: Arc::clone(&self.told) })
    }

    fn look_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(5))
    }

    fn look(&mut self) -> bool {
        let status = if self.link.load(Ordering::Relaxed) { S_LINK_UP } else { 0 };
        let before = std::mem::replace(&mut self.config.status, status.into());
        before != self.config.status
    }
}

struct Queues {
    control: QueueId,
    told: Told,
}

impl Handler for Queues {
    type Op = ();

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && queue != self.control {
            cx.keep(queue);
        }
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let mut command = vec![0; chain.readable_len()];
        chain.read_exact(&mut command).unwrap();
        let refused = command.starts_with(Command::VLAN_DEL.as_bytes());
        if chain.writable_len() > 0 {
            chain.write_all(&[if refused { ERR } else { OK }]).unwrap();
        }
        if command.starts_with(Command::NOTF_COAL_VQ_GET.as_bytes()) {
            let coalescing = Coalescing { max_packets: 7.into(), max_usecs: 50.into() };
            chain.write_obj(&coalescing).unwrap();
        }
        self.told.lock().unwrap().push((chain.queue().0, command));
        cx.done(chain)
    }
}

/// The device, what it is told, its link, and its thread, which ends with the connection.
fn noting(format: Format, features: u64, pairs: u16) -> (Net, Told, Arc<AtomicBool>, JoinHandle<()>) {
    let mut profile = Profile::new(DeviceId::NET, "net").feature(F_MQ | F_CTRL_VQ | F_CTRL_VLAN | F_STATUS);
    for _ in 0..2 {
        profile = profile.parallel_queues("receiveq", 256, 1).queue("transmitq", 256);
    }
    let profile = profile.parallel_queues("controlq", 64, 1);
    let config = Config { status: S_LINK_UP.into(), max_virtqueue_pairs: 2.into(), ..Config::default() };
    let (told, link) = (Told::default(), Arc::new(AtomicBool::new(true)));
    let device = Noting { profile, config, told: Arc::clone(&told), link: Arc::clone(&link) };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        let options = BackendOptions { polling: Polling::Off, ..BackendOptions::default() };
        Backend::new(device, options).unwrap().serve(theirs, &Stop::new().unwrap()).unwrap();
    });
    let frontend = Frontend::from_stream(ours, Options { timeout: LONG, ..Options::default() }).unwrap();
    let wishes = Wishes { format, device_features: features, ..Wishes::default() };
    let options = NetOptions { wishes, pairs, control: true, ..NetOptions::default() };
    (Net::open(frontend, &options).unwrap(), told, link, thread)
}

fn end(net: Net, thread: JoinHandle<()>) {
    drop(net.close().unwrap());
    thread.join().unwrap();
}

#[test]
fn commands_reach_the_queue_that_the_features_make_the_control_queue() {
    for format in [Format::Split, Format::Packed] {
        for (features, index, pairs) in [(F_CTRL_VQ | F_MQ, 4, 2), (F_CTRL_VQ, 2, 1)] {
            let (mut net, told, _, thread) = noting(format, features, pairs);
            let mut expected = Vec::new();
            if pairs == 2 {
                expected.push((index, vec![4, 0, 2, 0]));
            }
            let control = net.control().unwrap();
            control.switch(Command::RX_PROMISC, true).unwrap();
            control.switch(Command::RX_NOBCAST, false).unwrap();
            control.set_mac_table(&[[2; 6]], &[[1; 6], [3; 6]]).unwrap();
            control.set_mac([2, 0, 0, 0, 0, 9]).unwrap();
            control.set_vlan(0x123, true).unwrap();
            control.announced().unwrap();
            control.set_offloads(1 << 7).unwrap();
            let table = [[1, 0, 0, 0].as_slice(), &[2; 6], &[2, 0, 0, 0], &[1; 6], &[3; 6]].concat();
            for command in [
                vec![0, 0, 1],
                vec![0, 5, 0],
                [[1, 0].as_slice(), &table].concat(),
                vec![1, 1, 2, 0, 0, 0, 0, 9],
                vec![2, 0, 0x23, 1],
                vec![3, 0],
                vec![5, 0, 128, 0, 0, 0, 0, 0, 0, 0],
            ] {
                expected.push((index, command));
            }
            assert_eq!(*told.lock().unwrap(), expected);
            end(net, thread);
        }
    }
}

#[test]
fn hash_and_coalescing_are_told_as_the_specification_lays_them_out() {
    let (mut net, told, _, thread) = noting(Format::Packed, F_CTRL_VQ | F_MQ, 1);
    let control = net.control().unwrap();
    let rss = Rss { hash_types: 3, table: &[0, 1], unclassified: 1, transmit_queues: 2, key: &[9; 4] };
    control.set_rss(&rss).unwrap();
    control.set_hash(5, &[8]).unwrap();
    let (few, many) = (
        Coalescing { max_packets: 1.into(), max_usecs: 2.into() },
        Coalescing { max_packets: 3.into(), max_usecs: 4.into() },
    );
    control.coalesce(few, many).unwrap();
    control.coalesce_queue(1, few).unwrap();
    assert_eq!(control.coalescing_of(3).unwrap().max_packets.get(), 7);
    let expected = [
        vec![4, 1, 3, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 2, 0, 4, 9, 9, 9, 9],
        vec![4, 2, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 8],
        vec![6, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        vec![6, 1, 3, 0, 0, 0, 4, 0, 0, 0],
        vec![6, 2, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        vec![6, 3, 3, 0, 0, 0],
    ];
    assert_eq!(told.lock().unwrap().iter().map(|(_, told)| told.clone()).collect::<Vec<_>>(), expected);
    assert!(matches!(control.set_rss(&Rss { table: &[], ..rss }), Err(Error::Invalid(_))));
    end(net, thread);
}

#[test]
fn command_that_is_refused_is_an_error_and_the_next_one_works() {
    let (mut net, _, _, thread) = noting(Format::Split, F_CTRL_VQ, 1);
    let control = net.control().unwrap();
    assert!(matches!(control.set_vlan(1, false), Err(Error::CommandRefused { class: 2, number: 1 })));
    control.set_vlan(1, true).unwrap();
    assert_eq!(control.raw(&[&[2], &[0, 1, 0]], &[1, 3]).unwrap(), (vec![OK, 0xff, 0xff, 0xff], 1));
    assert!(matches!(control.raw(&[&[0; 9000]], &[1]), Err(Error::Invalid(_))));
    end(net, thread);
}

#[test]
fn control_queue_that_is_not_wished_for_stays_with_the_front_end() {
    let (mut net, told, _, thread) = noting(Format::Split, F_MQ, 1);
    assert!(net.control().is_none());
    assert!(told.lock().unwrap().is_empty());
    end(net, thread);
}

#[test]
fn link_that_goes_down_is_seen_when_the_device_says_that_it_changed() {
    let (mut net, _, link, thread) = noting(Format::Packed, F_CTRL_VQ | F_STATUS, 1);
    assert_eq!(net.has_link(), Some(true));
    assert!(!net.look().unwrap());
    link.store(false, Ordering::Relaxed);
    let deadline = Instant::now() + LONG;
    while !net.look().unwrap() {
        assert!(Instant::now() < deadline, "nothing is told");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(net.has_link(), Some(false));
    end(net, thread);
}
