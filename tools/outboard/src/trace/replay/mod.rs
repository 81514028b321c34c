//! `outboard replay`: says to a back end what a recorded front end said, and compares the answers. Neither the
//! recording nor the back end is trusted.
//!
//! Messages go out byte for byte; what they carried is made anew, empty ([`stand_ins`]). What was in guest memory is
//! not in a recording, and neither are kicks: rings start, and stay empty.

mod compare;
mod stand_ins;
mod talk;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outboard_vhost_user::observe::{Observer, Seen, Side};
use serde_json::json;

use crate::stdout;
use crate::target::{Target, TargetArgs};
use compare::Difference;
use talk::{Answer, Talk};

/// Say again to a back end what a front end said, and compare the answers
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit status is 0 if all answers are as recorded, 1 if there are differences, and 2 if \
                        the recording could not be said again."
)]
pub(crate) struct Args {
    /// What `outboard trace --record` has made
    recording: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    /// The connection to take, if the recording has several
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    connection: u32,
    /// Stop after this message, by its number as `outboard trace` shows it
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    until: Option<u64>,
    /// Leave the same time between messages as there was
    #[arg(long)]
    paced: bool,
    /// How many seconds an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Show what a back end that is started says itself
    #[arg(long, short)]
    verbose: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    said: u64,
    compared: u64,
    differences: u64,
    recorded_back_messages: usize,
}

/// Replays, and tells by the status whether the answers were the same.
pub(crate) fn run(args: &Args) -> ExitCode {
    match replay(args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "outboard replay: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn replay(args: &Args) -> Result<u64> {
    let mut messages = messages(args)?;
    let Some(first) = messages.next().transpose()? else {
        bail!("{} has no message of connection {}", args.recording.display(), args.connection);
    };
    let target = Target::open(&args.target, args.verbose)?;
    let mut talk = Talk::open(target.socket(), Duration::from_secs(args.timeout.into()))?;
    let mut replay = Replay { args, talk: &mut talk, tally: Tally::default(), then: Observer::new(None) };
    replay.all(first, messages)?;
    let tally = replay.tally;
    let back_messages = talk.back_messages();
    summary(args, &tally, &back_messages);
    Ok(tally.differences)
}

/// The messages of the connection, up to the last one wanted, read as they are asked for: a recording may be larger
/// than memory.
fn messages(args: &Args) -> Result<impl Iterator<Item = Result<Seen>>> {
    let mut recording = super::open(&args.recording)?;
    let all = std::iter::from_fn(move || {
        loop {
            match recording.next_message() {
                Ok(Some(seen)) if seen.connection == args.connection => return Some(Ok(seen)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    let read =
                        Err(error).with_context(|| format!("cannot read on in {}", args.recording.display()));
                    return Some(read);
                }
            }
        }
    });
    Ok(all.take(args.until.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)))
}

struct Replay<'a> {
    args: &'a Args,
    talk: &'a mut Talk,
    tally: Tally,
    /// Follows the dialogue as it was.
    then: Observer,
}

impl Replay<'_> {
    fn all(&mut self, first: Seen, rest: impl Iterator<Item = Result<Seen>>) -> Result<()> {
        let mut before = first.time;
        for seen in std::iter::once(Ok(first)).chain(rest) {
            let seen = &seen?;
            let then = self.then.see(seen);
            match (seen.channel.is_main(), seen.from) {
                (true, Side::FrontEnd) => {
                    if self.args.paced {
                        std::thread::sleep(seen.time.saturating_sub(before));
                    }
                    if let Err(problem) =
                        self.talk.say(seen).with_context(|| format!("message #{}", then.number))?
                    {
                        self.differ(&Difference::of(then.number, then.id, "", problem));
                        return Ok(());
                    }
                    self.tally.said += 1;
                }
                (true, Side::BackEnd) => match self.talk.hear()? {
                    Answer::Message(now, observed) => {
                        self.tally.compared += 1;
                        for difference in compare::compare((seen, &then), (&now, &observed)) {
                            self.differ(&difference);
                        }
                    }
                    Answer::None(problem) => {
                        self.differ(&Difference::of(then.number, then.id, "an answer", problem));
                        return Ok(());
                    }
                },
                (false, Side::BackEnd) => self.tally.recorded_back_messages += 1,
                (false, Side::FrontEnd) => {}
            }
            before = seen.time;
        }
        // Stopped between a request and its answer, that answer is none too many.
        if self.then.unanswered().next().is_none()
            && let Some(surplus) = self.talk.surplus()
        {
            self.differ(&surplus);
        }
        Ok(())
    }

    fn differ(&mut self, difference: &Difference) {
        self.tally.differences += 1;
        let shown = if self.args.json { difference.json().to_string() } else { difference.to_string() };
        stdout::show(&format!("{shown}\n"));
    }
}

fn summary(args: &Args, tally: &Tally, back_messages: &[String]) {
    let Tally { said, compared, differences, recorded_back_messages } = tally;
    if args.json {
        return stdout::show(&format!(
            "{}\n",
            json!({
                "type": "summary", "said": said, "compared": compared, "differences": differences,
                "back_channel": back_messages, "back_channel_recorded": recorded_back_messages,
            })
        ));
    }
    let mut text = format!("{said} messages said, {compared} answers compared: ");
    text.push_str(&match differences {
        0 => "no difference\n".to_owned(),
        1 => "1 difference\n".to_owned(),
        several => format!("{several} differences\n"),
    });
    if !back_messages.is_empty() || *recorded_back_messages > 0 {
        let now = if back_messages.is_empty() { "nothing".to_owned() } else { back_messages.join(", ") };
        text.push_str(&format!(
            "on the back channel: {now} (not compared; {recorded_back_messages} messages recorded)\n"
        ));
    }
    stdout::show(&text);
}
