//! Carries requests out, group by group: whether in the handler, or on a thread where a bus may be waited for.
//!
//! Theory of operation. Requests that are tied (VIRTIO 1.3, 5.16.6.1, FAIL_NEXT) are a group, and a group is a transaction
//! on the bus. What fails, is refused, or comes behind what failed in its group, has the status ERR and was not carried
//! out, as far as the bus can say: adapters of the host fail as a whole. A group that comes in parts is a transaction for
//! each part, and the parts behind a failure fail.

use std::sync::Arc;

use outboard_device::Chain;
use outboard_device::defs::i2c::{ERR, OK};

use crate::address::ReadOnly;
use crate::request::{Request, Wish, Wrong};
use crate::status::Tallies;
use crate::transaction::{Message, Transaction};

/// Who is on the other side.
pub(crate) trait Bus: Send {
    /// Carries out messages as one transaction; what is read goes into their data. Returns how many of them, from the first
    /// on, are known to have gone well.
    fn transfer(&mut self, messages: &mut [Message]) -> usize;
}

/// What is to become of the group whose beginning was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carry {
    Nothing,
    Going,
    Failed,
}

/// See the module.
pub(crate) struct Executor {
    bus: Box<dyn Bus>,
    read_only: ReadOnly,
    tallies: Arc<Tallies>,
    transaction: Transaction,
    carry: Carry,
}

impl Executor {
    pub(crate) fn new(bus: Box<dyn Bus>, read_only: ReadOnly, tallies: Arc<Tallies>) -> Self {
        Self { bus, read_only, tallies, transaction: Transaction::default(), carry: Carry::Nothing }
    }

    /// Forgets groups that have only begun.
    pub(crate) fn forget(&mut self) {
        self.carry = Carry::Nothing;
    }

    /// Answers `chains`, whose headers are `requests`. Completing them is the caller's.
    pub(crate) fn run(&mut self, requests: &[Request], chains: &mut [Chain]) {
        let mut rest = chains;
        for group in requests.chunk_by(|request, _| request.is_tied()) {
            let (chains, behind) = rest.split_at_mut(group.len().min(rest.len()));
            self.run_group(group, chains);
            rest = behind;
        }
    }

    /// Answers requests of a group that is longer than can be, and has its end elsewhere.
    pub(crate) fn refuse(&mut self, chains: &mut [Chain]) {
        self.tallies.refuse(None, chains.len());
        answer(chains, &[], 0);
        self.carry = Carry::Failed;
    }

    fn run_group(&mut self, group: &[Request], chains: &mut [Chain]) {
        self.transaction.clear();
        if self.carry != Carry::Failed {
            self.admit(group, chains);
        }
        let messages = self.transaction.messages();
        let good = if messages.is_empty() { 0 } else { self.bus.transfer(messages).min(messages.len()) };
        self.tallies.count(messages, good);
        answer(chains, messages, good);
        self.carry = match group.last().is_some_and(|last| last.is_tied()) {
            false => Carry::Nothing,
            true if good == group.len() => Carry::Going,
            true => Carry::Failed,
        };
    }

    /// Makes messages of requests, up to the first that is not to be carried out.
    fn admit(&mut self, group: &[Request], chains: &mut [Chain]) {
        let mut requests = group.iter().zip(chains).peekable();
        while let Some((request, chain)) = requests.next() {
            let next = requests.peek().and_then(|(request, chain)| wish(**request, chain).ok());
            let wish = match wish(*request, chain) {
                Ok(wish) if !self.is_forbidden(wish, next) => wish,
                Ok(wish) => return self.tallies.refuse(Some(wish.address), 1),
                Err(wrong) => {
                    tracing::debug!("a request was refused: {wrong}");
                    return self.tallies.refuse(None, 1);
                }
            };
            let Some(message) = self.transaction.push(wish) else { return };
            if !wish.read && chain.read_exact(&mut message.data).is_err() {
                return self.transaction.pop();
            }
        }
    }

    /// To an address that is for reading, only that is written which says what is read behind a repeated start. A byte
    /// that comes alone is data to many chips, and so is none at all.
    fn is_forbidden(&self, wish: Wish, next: Option<Wish>) -> bool {
        let Some(pointer) = self.read_only.pointer(wish.address).filter(|_| !wish.read) else { return false };
        let is_read = next.is_some_and(|next| next.read && next.address == wish.address && next.len > 0);
        !is_read || !(1..=pointer).contains(&wish.len)
    }
}

/// What a request that is still to be carried out wants.
fn wish(request: Request, chain: &Chain) -> Result<Wish, Wrong> {
    request.judge(chain.readable_len(), chain.writable_len())
}

/// Gives each request its status, and what it has read: the first `good` of `messages` went well.
fn answer(chains: &mut [Chain], messages: &[Message], good: usize) {
    let mut messages = messages.iter().take(good);
    for chain in chains {
        let Some(status) = chain.split_status() else {
            messages.next();
            continue;
        };
        let done =
            messages.next().is_some_and(|message| !message.read || chain.write_all(&message.data).is_ok());
        chain.set_status(status, if done { OK } else { ERR });
    }
}
