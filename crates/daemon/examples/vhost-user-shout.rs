//! A device that answers every text in capital letters.

use outboard_daemon::{Program, run};
use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, Profile, Uniform, defs::DeviceId};

/// The data half. Plain fields: each queue's thread has a handler of its own.
#[derive(Clone)]
struct Shout {
    longest: usize,
}

impl Handler for Shout {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        // Lengths and bytes are the guest's: bound the one, and believe nothing of the other.
        for _ in 0..self.longest {
            let Ok(byte) = chain.read_obj::<u8>() else { break };
            if let Err(error) = chain.write_obj(&byte.to_ascii_uppercase()) {
                cx.warn("an answer was cut short", error);
                break;
            }
        }
        cx.done(chain)
    }
}

#[derive(clap::Args)]
struct ShoutOptions {
    /// Answer no more than so many bytes of a text
    #[arg(long, value_name = "N", default_value_t = 4096)]
    longest: usize,
}

impl Program for Shout {
    const NAME: &'static str = "vhost-user-shout";
    const TYPE: &'static str = "shout";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "Answers in capital letters";
    type Args = ShoutOptions;
    type Device = Uniform<Self>;

    fn open(options: ShoutOptions) -> Result<Uniform<Self>, DeviceError> {
        let profile = Profile::new(DeviceId(63), "shout").in_order().queue("requestq", 256);
        Ok(Uniform::new(profile, Self { longest: options.longest }))
    }
}

fn main() -> std::process::ExitCode {
    run::<Shout>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_device::testing::{Bench, Format};

    #[test]
    fn text_in_pieces_comes_back_loud() {
        for format in [Format::Split, Format::Packed] {
            let mut bench = Bench::new(Shout { longest: 9 }, format);
            let (outputs, len) = bench.request(&[b"what", b" did", b" you say?"], &[4, 20]);
            assert_eq!((&outputs[0][..], &outputs[1][..5], len), (&b"WHAT"[..], &b" DID "[..], 9));
        }
    }
}
