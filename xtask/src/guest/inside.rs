//! A tool and a back end in a guest that has what the back end serves: chips, adapters, keyboards that few hosts have.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::bench::{Bench, Shared};
use super::initramfs;
use super::scenario::Scenario;
use crate::peers::Machine;
use crate::setup::Arch;
use crate::setup::kernel::Kernel;
use crate::setup::prefix::Qemu;
use crate::workspace::{Workspace, quoted};

/// How long a guest may take, in seconds: a translated one is a tenth as fast as its host, and a back end that answers
/// nothing is waited for over and over.
const LIMIT: u64 = 40 * 60;

/// What runs in a guest.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) machine: Machine,
    pub(crate) tool: PathBuf,
    pub(crate) arguments: &'a [OsString],
    /// The command line of the back end, which the tool starts: a program of this machine, and its words.
    pub(crate) back_end: &'a [OsString],
}

/// What the tool said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: Option<i32>,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

/// Starts a guest in which the tool is run on the back end, and waits for its end. `cargo xtask setup` has run.
pub(crate) fn inside(workspace: &Workspace, inside: &Inside<'_>, directory: &Path) -> Result<Told> {
    let kernel = Kernel::open(workspace, Arch::X86)?;
    let (program, rest) = inside.back_end.split_first().context("a back end without a program")?;
    let mut files = initramfs::with_libraries(&inside.tool)?;
    files.extend(initramfs::with_libraries(Path::new(program))?);
    files.push(("scenario/inside.sh".to_owned(), script(inside, program.as_ref(), rest).into_bytes()));
    let initramfs = initramfs::build_with(workspace, Arch::X86, &kernel, directory, files)?;
    let shared = Shared::alone(workspace, kernel, initramfs);
    let scenario = Scenario {
        name: "inside".to_owned(),
        arch: Arch::X86,
        qemu: Qemu::V11,
        packed: false,
        limit: LIMIT,
        run: |_| Ok(()),
    };
    let mut bench = Bench::new(&shared, &scenario, directory);
    bench.qemu_devices(inside.machine.devices);
    let mut vm = bench.boot("inside", Vec::new())?;
    vm.finish()?;
    let errors = vm.data.remove("errors").unwrap_or_default();
    Ok(Told {
        status: vm.value("status")?.parse().ok(),
        output: vm.data.remove("output").unwrap_or_default(),
        errors: String::from_utf8_lossy(&errors).into_owned(),
    })
}

/// What the guest's shell does.
fn script(inside: &Inside<'_>, program: &Path, rest: &[OsString]) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tool = name(&inside.tool);
    let words =
        |words: &[OsString]| words.iter().map(|word| format!(" {}", quoted(word))).collect::<String>();
    format!(
        ". /scenario/inner.sh\n\
         {}\
         run=\"$loader --library-path /host\"\n\
         $run /host/{tool}{} -- $run /host/{}{} >/tmp/output 2>/tmp/errors\n\
         value status $?\n\
         for name in output errors; do\n\
             hexdump -v -e '64/1 \"%02x\" \"\\n\"' /tmp/$name | tr -d ' ' | sed \"s/^/OUTBOARD-DATA $name /\"\n\
         done\n\
         ok ended\n",
        inside.machine.prepare,
        words(inside.arguments),
        name(program),
        words(rest),
    )
}
