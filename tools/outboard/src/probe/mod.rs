//! `outboard probe`: what is behind a socket.
//!
//! Theory of operation: [`questions`] asks what any front end may ask and keeps the [`Answers`]; [`guess`] weighs
//! which type of device gives such answers; [`findings`] is what all that amounts to, which [`text`] shows to people
//! and `--json` to programs. A back end that falls silent, closes or talks nonsense ends the questions, not the
//! report.
//!
//! The back end is not trusted: each wait has an end, each number is its own word.

mod decode;
mod dialogue;
mod findings;
mod front_ends;
mod guess;
mod questions;
mod text;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::features::VHOST_F_LOG_ALL;

use crate::seconds::seconds;
use crate::stdout;
use crate::target::{Target, TargetArgs};
use dialogue::Trouble;
use findings::{Bits, Config, Findings, Migration, Queues};
use questions::{Answers, Manner};

/// Show what is behind a socket: device, features, queues, configuration, memory
///
/// Asks what any front end may ask; nothing is written to the device, and no ring runs. A back end that serves one
/// front end at a time is free again afterwards. vhost-user does not tell the device's type: it is guessed from what
/// was found, and the reasons are shown. The status is 1 if the back end does not answer as it must; what it
/// answered before is shown nonetheless.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,

    /// The device's type, as a name (blk) or a number (2), instead of a guess. An input device is asked for its name
    /// then, for which its selector is written
    #[arg(long, value_name = "TYPE")]
    device: Option<DeviceId>,

    /// Also find out by trial what no message asks for: the longest ring of each queue, and how many queues there
    /// are if it does not tell. Some back ends refuse by closing the connection, and some of these end [default for
    /// a COMMAND]
    #[arg(long)]
    trial: bool,

    /// How long an answer may take, in seconds; everything may take ten times as long
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// Show what a back end that is started says itself
    #[arg(long, short)]
    verbose: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  outboard probe /run/blk.sock
  outboard probe --json /run/fs.sock
  outboard probe -- vhost-user-blk --blk-file disk.img
  outboard probe -- qemu-storage-daemon --blockdev driver=file,filename=disk.img,node-name=d \\
      --export type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={socket}";

/// Asks and reports.
pub(crate) fn run(args: &Args) -> ExitCode {
    match probe(args) {
        Ok(findings) if findings.error.is_none() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outboard probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn probe(args: &Args) -> Result<Findings> {
    let timeout = args.timeout.max(Duration::from_millis(1));
    let manner = Manner { timeout, whole: timeout.saturating_mul(10) };
    let mut target = Target::open(&args.target, args.verbose)?;
    let mut answers = Answers::default();
    let trouble = ask(args, manner, &mut target, &mut answers).err();
    let findings = report(args, &target, answers, trouble);
    let text = match args.json {
        true => serde_json::to_string_pretty(&findings)? + "\n",
        false => text::show(&findings),
    };
    stdout::show(&text);
    Ok(findings)
}

fn ask(args: &Args, manner: Manner, target: &mut Target, answers: &mut Answers) -> Result<(), Trouble> {
    answers.ask(target, manner)?;
    if args.device == Some(DeviceId::INPUT) {
        answers.input_name(target, manner)?;
    }
    if args.trial || target.is_ours() {
        answers.try_out(target, manner)?;
    }
    Ok(())
}

/// What the answers amount to.
fn report(args: &Args, target: &Target, mut answers: Answers, trouble: Option<Trouble>) -> Findings {
    let device = guess::guess(&answers, args.device);
    let id = device.as_ref().map(|device| DeviceId(device.id));
    let features = answers.features.unwrap_or(0);
    let config = answers.config.as_ref().map(|space| Config {
        length: space.known().len(),
        exact: space.exact,
        fields: id.map_or_else(Vec::new, |id| decode::fields(id, features, &space.bytes)),
        bytes: space.known().to_vec(),
    });
    let front_ends = match id {
        Some(id) if trouble.is_none() => front_ends::verdicts(id, &answers),
        _ => Vec::new(),
    };
    let mut notes = std::mem::take(&mut answers.notes);
    remark(&answers, &mut notes);
    if id == Some(DeviceId::NET) && answers.queues.is_some() && !answers.tried {
        notes.push("the number of queues may be one of pairs: back ends for network cards differ".to_owned());
    }
    notes.sort();
    notes.dedup();
    Findings {
        target: target.name(),
        program: answers.program,
        device,
        features: answers.features.map(|value| Bits::of_virtio(id, value)),
        protocol_features: answers.protocol.map(Bits::of_protocol),
        queues: Queues {
            count: answers.queues,
            known: answers.queues.map(|_| if answers.tried { "tried" } else { "told" }),
            longest: answers.longest,
        },
        memory_slots: answers.memory_slots,
        config,
        shared_memory: answers.shared_memory,
        inflight: answers.inflight,
        back_channel: answers.back_channel,
        status: answers.status,
        migration: answers.features.map(|features| migration(features, answers.protocol)),
        front_ends,
        notes,
        error: trouble.map(|trouble| explain(&trouble)),
    }
}

fn migration(features: u64, protocol: Option<ProtocolFeatures>) -> Migration {
    let offered = protocol.unwrap_or(ProtocolFeatures::EMPTY).effective();
    Migration {
        dirty_log: features & VHOST_F_LOG_ALL != 0 && offered.contains(ProtocolFeatures::LOG_SHMFD),
        inflight: offered.contains(ProtocolFeatures::GET_VRING_BASE_INFLIGHT),
        device_state: offered.contains(ProtocolFeatures::DEVICE_STATE),
        postcopy: offered.contains(ProtocolFeatures::PAGEFAULT),
    }
}

/// What is remarkable about the answers.
fn remark(answers: &Answers, notes: &mut Vec<String>) {
    let offered = answers.protocol.unwrap_or(ProtocolFeatures::EMPTY);
    for (bit, missing) in offered.unmet() {
        notes.push(format!("it offers {bit} without {missing}, which that needs"));
    }
    if offered.contains(ProtocolFeatures::GPA_ADDRESSES) {
        notes.push(
            "bit 21 is GPA_ADDRESSES; back ends that were built on the crate vhost before 0.17 mean SHMEM by it"
                .to_owned(),
        );
    }
    if answers.queues.is_some_and(|queues| queues > 0x8000) {
        notes.push("no device has so many queues".to_owned());
    }
    if answers.queues == Some(0) {
        notes.push("it says that it has no queue".to_owned());
    }
    if answers.memory_slots.is_some_and(|slots| slots < 8) {
        notes.push("a back end must take at least 8 memory regions".to_owned());
    }
}

fn explain(trouble: &Trouble) -> String {
    let hint = match trouble {
        Trouble::Silent { .. } => "; is it serving another front end?",
        Trouble::Connect(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            "; others wait for it already: is it serving another front end?"
        }
        _ => "",
    };
    format!("{trouble}{hint}")
}
