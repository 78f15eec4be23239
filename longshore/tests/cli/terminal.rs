//! What a person sees on a terminal.

use std::process::Command;

use super::world::{World, is_installed, run, skip, until};

/// A terminal of its own, which ends with the test.
struct Terminal(String);

impl Terminal {
    fn open(name: &str, command: &str, world: &World) -> Self {
        let server = format!("longshore-test-{name}-{}", std::process::id());
        let terminal = Self(server);
        let mut tmux = terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "20"]);
        let ran = run(tmux
            .arg(command)
            .current_dir(world.folder())
            .env_remove("TMUX"));
        assert_eq!(ran.code, 0, "{ran:?}");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.args(["-f", "/dev/null", "-L", &self.0]).args(args);
        tmux
    }

    fn screen(&self) -> String {
        run(&mut self.tmux(&["capture-pane", "-p"])).stdout
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        run(&mut self.tmux(&["kill-server"]));
    }
}

#[test]
fn a_bar_shows_bytes_rate_and_time_left_and_goes_away() {
    if !is_installed("tmux") {
        return skip("tmux (Debian package tmux)");
    }
    let world = World::new();
    world.random("a.img", 12 << 20);
    let command = format!(
        "LANG=C.UTF-8 {} backup --limit 4M a.img b.img; sleep 30",
        env!("CARGO_BIN_EXE_longshore")
    );
    let terminal = Terminal::open("bar", &command, &world);
    let mut screen = String::new();
    until(|| {
        screen = terminal.screen();
        screen.contains("MiB/s   eta 1") || screen.contains("MiB/s   eta 2")
    });
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines[0].starts_with("backup a.img"), "{screen}");
    assert!(
        lines[1].contains("/12.0 MiB") && lines[1].contains('%'),
        "{screen}"
    );
    assert!(lines[2].contains("limit 4.00 MiB/s"), "{screen}");
    until(|| {
        screen = terminal.screen();
        screen.contains("next      longshore verify")
    });
    assert!(!screen.contains("eta"), "{screen}");
    assert!(screen.contains("verified  no"), "{screen}");
}

#[test]
fn without_a_terminal_there_are_plain_lines() {
    let world = World::new();
    world.random("a.img", 1 << 20);
    let run = world.run_ok(&["backup", "a.img", "b.img"]);
    let first = run.stderr.lines().next().unwrap();
    assert!(first.contains(" backup a.img copy "), "{run:?}");
    assert!(
        first.contains("/1048576 B") && first.contains("eta="),
        "{run:?}"
    );
    let is_plain = |c: char| c == '\n' || !c.is_control();
    assert!(run.stderr.chars().all(is_plain), "{run:?}");
}
