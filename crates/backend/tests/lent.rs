//! Chains in the hands of other threads, and inboxes of their handlers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use outboard_backend::{Backend, Options, Served};
use outboard_device::{
    Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Inbox, Outlet, Parcel, Profile, QueueId,
    defs::DeviceId, inbox,
};
use outboard_frontend::{Frontend, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use rig::{LONG, Server, engines};

const REQUESTS: QueueId = QueueId(0);
const NEWS: QueueId = QueueId(1);

/// Lends the requests of one queue by the batch, and passes on to the other one what is posted.
struct Lender {
    batch: Vec<Chain>,
    parcels: Sender<Parcel>,
    outlet: Arc<Mutex<Option<Outlet<u32>>>>,
    inbox: Option<Inbox<u32>>,
    news: Vec<u32>,
}

impl Handler for Lender {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let (inbox, outlet) = inbox(8, cx.waker());
        self.inbox = Some(inbox);
        *self.outlet.lock().unwrap() = Some(outlet);
        Ok(())
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && queue == NEWS {
            cx.keep(queue);
        }
    }

    fn request(&mut self, chain: Chain, _: &mut Cx<'_, ()>) -> Flow {
        assert_eq!(chain.queue(), REQUESTS);
        self.batch.push(chain);
        Flow::Next
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let lent = !self.batch.is_empty();
        if lent {
            let _ = self.parcels.send(cx.lend(&mut self.batch));
        }
        self.inbox.as_mut().unwrap().take(&mut self.news);
        let mut told = 0;
        while let Some(piece) = self.news.get(told)
            && let Some(mut chain) = cx.pop(NEWS)
        {
            chain.write_obj(piece).unwrap();
            let _ = cx.done(chain);
            told += 1;
        }
        self.news.drain(..told);
        lent || told > 0
    }

    fn is_ready(&self) -> bool {
        self.inbox.as_ref().is_some_and(Inbox::is_ready)
    }
}

struct Lending {
    profile: Profile,
    parcels: Sender<Parcel>,
    outlet: Arc<Mutex<Option<Outlet<u32>>>>,
}

impl Device for Lending {
    type Handler = Lender;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<Lender, DeviceError> {
        let (parcels, outlet) = (self.parcels.clone(), Arc::clone(&self.outlet));
        Ok(Lender { batch: Vec::new(), parcels, outlet, inbox: None, news: Vec::new() })
    }
}

struct Loan {
    server: Server<Lending>,
    frontend: Frontend,
    requests: Queue,
    news: Queue,
    room: Segment,
    parcels: Receiver<Parcel>,
    outlet: Outlet<u32>,
}

impl Loan {
    fn start(options: Options) -> Self {
        let (give, parcels) = mpsc::channel();
        let outlet = Arc::new(Mutex::new(None));
        let profile = Profile::new(DeviceId(42), "lender").queue("requests", 64).queue("news", 64);
        let device = Lending { profile, parcels: give, outlet: Arc::clone(&outlet) };
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&Wishes { event_idx: false, ..Wishes::default() }).unwrap();
        let (requests, news) = (frontend.start(0, 64).unwrap(), frontend.start(1, 64).unwrap());
        let room = frontend.allocate(8).unwrap();
        let outlet = outlet.lock().unwrap().take().unwrap();
        Self { server, frontend, requests, news, room, parcels, outlet }
    }

    fn ask(&mut self, count: u64) {
        for token in 0..count {
            self.requests.add::<&Segment, _>(&[], &[&self.room], token).unwrap();
        }
        self.requests.publish().unwrap();
    }
}

fn wait(queue: &mut Queue) -> (u64, u32) {
    while !queue.has_used() {
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
    }
    queue.poll().unwrap().unwrap()
}

fn fill(mut parcel: Parcel) -> usize {
    for chain in parcel.chains() {
        chain.write_obj(&7_u32).unwrap();
    }
    parcel.len()
}

#[test]
fn chains_that_were_lent_come_home_and_wake_a_worker_that_sleeps() {
    const ROUNDS: usize = 200;
    for options in engines() {
        let Loan { server, frontend, mut requests, news, room, parcels, .. } = {
            let mut loan = Loan::start(options);
            loan.ask(3);
            loan
        };
        let holder = thread::spawn(move || {
            let mut chains = 0;
            for (count, parcel) in parcels.iter().enumerate() {
                // Every other one finds the worker asleep, most likely.
                if count % 2 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                chains += fill(parcel);
            }
            chains
        });
        for round in 0..ROUNDS {
            for token in 0..3 {
                assert_eq!(wait(&mut requests), (token, 4), "round {round}");
            }
            // Nothing is under way when the connection ends: it might not be taken.
            if round < ROUNDS - 1 {
                for token in 0..3 {
                    requests.add::<&Segment, _>(&[], &[&room], token).unwrap();
                }
                requests.publish().unwrap();
            }
        }
        drop((requests, news, frontend));
        assert_eq!(server.end().1.unwrap(), Served::Closed);
        assert_eq!(holder.join().unwrap(), ROUNDS * 3);
    }
}

#[test]
fn queue_with_a_parcel_out_stops_when_it_comes_home() {
    for options in engines() {
        let mut loan = Loan::start(options);
        loan.ask(1);
        let parcel = loan.parcels.recv_timeout(LONG).unwrap();
        let Loan { server, mut frontend, mut requests, news, .. } = loan;
        thread::scope(|scope| {
            let stopping = scope.spawn(|| frontend.stop(&mut requests).unwrap());
            thread::sleep(Duration::from_millis(30));
            assert!(!stopping.is_finished());
            fill(parcel);
            stopping.join().unwrap();
        });
        assert_eq!(requests.poll().unwrap(), Some((0, 4)));
        drop((requests, news, frontend));
        server.end().1.unwrap();
    }
}

#[test]
fn queue_with_a_parcel_out_is_quiet_when_it_is_disabled() {
    for options in engines() {
        let mut loan = Loan::start(options);
        loan.ask(1);
        let parcel = loan.parcels.recv_timeout(LONG).unwrap();
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            fill(parcel);
        });
        loan.frontend.enable(0, false).unwrap();
        assert!(
            loan.requests.has_used(),
            "acknowledged with a chain on loan: it would be missing in a snapshot"
        );
        holder.join().unwrap();
        drop((loan.requests, loan.news, loan.frontend));
        loan.server.end().1.unwrap();
    }
}

#[test]
fn parcel_that_outlives_the_connection_is_waited_for() {
    for options in engines() {
        let mut loan = Loan::start(options);
        loan.ask(1);
        let parcel = loan.parcels.recv_timeout(LONG).unwrap();
        drop((loan.requests, loan.news, loan.frontend));
        thread::sleep(Duration::from_millis(30));
        fill(parcel);
        assert_eq!(loan.server.end().1.unwrap(), Served::Closed);
        assert!(loan.outlet.is_closed());
    }
}

#[test]
fn items_that_are_posted_at_any_moment_wake_the_worker() {
    const ROUNDS: u32 = 2000;
    for options in engines() {
        let mut loan = Loan::start(options);
        let mut poster = Vec::new();
        for round in 0..ROUNDS {
            loan.news.add::<&Segment, _>(&[], &[&loan.room], 0).unwrap();
            loan.news.publish().unwrap();
            poster.push(round);
            assert_eq!(loan.outlet.post(&mut poster), 1);
            assert_eq!(wait(&mut loan.news), (0, 4));
            let mut bytes = [0; 4];
            loan.room.read_into(0, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), round);
        }
        drop((loan.requests, loan.news, loan.frontend));
        loan.server.end().1.unwrap();
    }
}
