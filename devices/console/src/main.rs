//! The program `vhost-user-console`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_console::VhostUserConsole>()
}
