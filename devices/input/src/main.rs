//! The program `vhost-user-input`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_input::VhostUserInput>()
}
