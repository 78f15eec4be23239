//! Our exports with the tools of others: QEMU's and libnbd's, over Unix sockets and TCP, on both backends.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aio::{BackendKind, Config, IoThread};
use block::{
    Graph, Node,
    nodes::{FileNode, FileOptions, MemoryNode, MemoryOptions},
};
use longshore::export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions};

const MIB: u64 = 1 << 20;
const QEMU_IMG: &str = "qemu-img (Debian package qemu-utils)";
const QEMU_IO: &str = "qemu-io (Debian package qemu-utils)";
const NBDCOPY: &str = "nbdcopy (Debian package libnbd-bin)";
const NBDINFO: &str = "nbdinfo (Debian package libnbd-bin)";

/// Says that the test on this thread cannot run here, because it needs `what`.
#[expect(clippy::print_stderr, reason = "docs/testing.md asks for it")]
fn skip(what: &str) {
    let thread = std::thread::current();
    let line = format!(
        "SKIPPED {}: needs {what}\n",
        thread.name().unwrap_or("a test")
    );
    let Some(log) = std::env::var_os("LONGSHORE_SKIP_LOG") else {
        eprint!("{line}");
        return;
    };
    let log = OpenOptions::new().append(true).create(true).open(log);
    log.and_then(|mut log| log.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}

/// Runs `test` for both kinds of address on both backends, if `tools` are installed.
fn everywhere(tools: &[&str], test: impl Fn(&World)) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_missing = |tool: &&&str| {
        let name = tool.split(' ').next().unwrap_or_default();
        !std::env::split_paths(&path).any(|dir| dir.join(name).exists())
    };
    let missing: Vec<&str> = tools.iter().filter(is_missing).copied().collect();
    if !missing.is_empty() {
        return skip(&missing.join(", "));
    }
    let mut backends = vec![BackendKind::Epoll];
    if aio::probe_io_uring().is_ok() {
        backends.push(BackendKind::IoUring);
    }
    for backend in backends {
        for tcp in [None, Some("127.0.0.1:0")] {
            test(&World::new(backend, tcp));
        }
    }
}

struct World {
    dir: tempfile::TempDir,
    graph: Graph,
    server: NbdServer,
    _thread: IoThread,
}

impl World {
    fn new(backend: BackendKind, tcp: Option<&str>) -> Self {
        let config = Config {
            backend: Some(backend),
            ..Config::default()
        };
        let thread = IoThread::start(config).unwrap();
        let graph = Graph::new();
        let dir = tempfile::tempdir().unwrap();
        let address = match tcp {
            Some(address) => NbdAddress::Tcp(address.parse().unwrap()),
            None => NbdAddress::Unix(dir.path().join("nbd.sock")),
        };
        let options = NbdServerOptions::default();
        let server = NbdServer::start(thread.handle(), &graph, &address, options).unwrap();
        Self {
            dir,
            graph,
            server,
            _thread: thread,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Exports `node` for reading and writing and returns its URI.
    fn export(&self, name: &str, node: &Node) -> String {
        let options = ExportOptions {
            writable: true,
            description: "a disk".to_owned(),
            ..ExportOptions::new(name, node)
        };
        self.server.add_export(options).unwrap();
        self.server.uri(name).to_string()
    }

    fn memory(&self, len_bytes: u64) -> Node {
        let node = MemoryNode::new(MemoryOptions::new(len_bytes)).unwrap();
        self.graph.add_node(None, node).unwrap()
    }

    fn file(&self, path: &Path) -> Node {
        let node = FileNode::open(&FileOptions::new(path)).unwrap();
        self.graph.add_node(None, node).unwrap()
    }

    /// A file with data, holes and data again, and an odd length.
    fn image(&self) -> PathBuf {
        let path = self.path("image.raw");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(48 * MIB + 512).unwrap();
        let data: Vec<u8> = (0..3 * MIB).map(|at| at.to_le_bytes()[1] ^ 0x5a).collect();
        for offset in [0, 10 * MIB + 4096, 40 * MIB] {
            std::os::unix::fs::FileExt::write_all_at(&file, &data, offset).unwrap();
        }
        path
    }
}

/// Runs a tool that must succeed and returns what it prints.
#[track_caller]
fn run(tool: &str, args: &[&str]) -> String {
    let output = try_run(tool, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}\n{text}{errors}");
    text
}

fn try_run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn qemu_img_reads_compares_and_maps_an_export() {
    everywhere(&[QEMU_IMG], |world| {
        let image = world.image();
        let copy = world.path("copy.raw");
        let uri = world.export("disk one", &world.file(&image));

        let info = json(&run("qemu-img", &["info", "--output=json", &uri]));
        assert_eq!(info["virtual-size"], 48 * MIB + 512);
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "raw", &uri, text(&copy)],
        );
        assert!(std::fs::read(&image).unwrap() == std::fs::read(&copy).unwrap());
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", &uri, text(&copy)],
        );
        let map = json(&run(
            "qemu-img",
            &["map", "-f", "raw", "--output=json", &uri],
        ));
        let zero = |at: usize| map[at]["zero"].as_bool().unwrap();
        assert_eq!([zero(0), zero(1), zero(2)], [false, true, false], "{map}");
        assert_eq!(map[1]["start"], 3 * MIB);
        assert_eq!(map[1]["data"], false);
    });
}

#[test]
fn qemu_img_converts_to_an_export() {
    everywhere(&[QEMU_IMG], |world| {
        let image = world.image();
        let target = world.memory(48 * MIB + 512);
        let uri = world.export("", &target);
        for arguments in [&["-n"][..], &["-n", "-W", "-m", "16"][..]] {
            let mut args = vec!["convert", "-f", "raw", "-O", "raw"];
            args.extend(arguments);
            args.extend([text(&image), &uri]);
            run("qemu-img", &args);
            run(
                "qemu-img",
                &["compare", "-f", "raw", "-F", "raw", text(&image), &uri],
            );
        }
        assert!(target.statistics().flushes > 0);
    });
}

#[test]
fn qemu_io_patterns_are_verified() {
    everywhere(&[QEMU_IO], |world| {
        let uri = world.export("disk", &world.memory(64 * MIB));
        let mut args = vec!["-f", "raw"];
        for command in [
            "write -P 0x11 0 4k",
            "write -P 0x22 4099 77777",
            "write -f -P 0x33 1M 31M",
            "writev -P 0x44 33M 4k 8k 512",
            "write -z 2M 1M",
            "write -z -u 5M 64k",
            "write -z -n -u 6M 64k",
            "discard 40M 1M",
            "flush",
            "read -P 0x11 0 4k",
            "read -P 0x22 4099 77777",
            "read -P 0x33 1M 1M",
            "read -P 0 2M 1M",
            "read -P 0x33 3M 2M",
            "read -P 0 5M 64k",
            "read -P 0x44 33M 12800",
            "aio_write -P 0x55 50M 1M",
            "aio_write -P 0x66 52M 1M",
            "aio_flush",
            "read -P 0x55 50M 1M",
            "read -P 0x66 52M 1M",
        ] {
            args.extend(["-c", command]);
        }
        args.push(&uri);
        let said = run("qemu-io", &args);
        assert!(!said.contains("failed"), "{said}");
        let other = try_run("qemu-io", &["-f", "raw", "-c", "read -P 9 0 512", &uri]);
        let said = String::from_utf8_lossy(&other.stdout);
        assert!(
            said.contains("verification failed"),
            "the tool does look: {said}"
        );
    });
}

#[test]
fn qemu_io_is_refused_writing_to_a_read_only_export() {
    everywhere(&[QEMU_IO], |world| {
        let node = world.memory(MIB);
        world
            .server
            .add_export(ExportOptions::new("ro", &node))
            .unwrap();
        let uri = world.server.uri("ro").to_string();
        let refused = try_run("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]);
        assert!(!refused.status.success());
        run(
            "qemu-io",
            &["-r", "-f", "raw", "-c", "read -P 0 0 512", &uri],
        );
    });
}

#[test]
fn nbdcopy_copies_in_both_directions() {
    everywhere(&[NBDCOPY], |world| {
        let image = world.image();
        let source = world.export("source", &world.file(&image));
        let target = world.memory(48 * MIB + 512);
        let target_uri = world.export("target", &target);
        let copy = world.path("copy.raw");

        run("nbdcopy", &[&source, text(&copy)]);
        assert!(std::fs::read(&image).unwrap() == std::fs::read(&copy).unwrap());
        run("nbdcopy", &["--flush", text(&image), &target_uri]);
        run("nbdcopy", &[&target_uri, text(&copy)]);
        assert!(std::fs::read(&image).unwrap() == std::fs::read(&copy).unwrap());
        run(
            "nbdcopy",
            &["--connections=4", "--requests=64", &source, &target_uri],
        );
        run("nbdcopy", &["--synchronous", &target_uri, text(&copy)]);
        assert!(std::fs::read(&image).unwrap() == std::fs::read(&copy).unwrap());
        run(
            "nbdcopy",
            &["--request-size=33554432", &source, &target_uri],
        );
        let server = world.server.exports();
        assert!(server.iter().all(|export| export.counters().errors == 0));
    });
}

#[test]
fn nbdinfo_tells_what_we_offer() {
    everywhere(&[NBDINFO], |world| {
        let uri = world.export("disk", &world.file(&world.image()));
        world.export("other", &world.memory(MIB));

        let info = json(&run("nbdinfo", &["--json", &uri]));
        assert_eq!(info["protocol"], "newstyle-fixed");
        assert_eq!(info["structured"], true);
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], 48 * MIB + 512);
        assert_eq!(export["description"], "a disk");
        assert_eq!(export["contexts"][0], "base:allocation");
        for able in [
            "can_multi_conn",
            "can_fua",
            "can_flush",
            "can_trim",
            "can_zero",
            "can_fast_zero",
            "can_df",
        ] {
            assert_eq!(export[able], true, "{able}");
        }
        assert_eq!(export["is_read_only"], false);
        assert_eq!(export["can_cache"], false);

        let map = json(&run("nbdinfo", &["--map", "--json", &uri]));
        let kinds: Vec<_> = map
            .as_array()
            .unwrap()
            .iter()
            .map(|extent| &extent["type"])
            .collect();
        assert_eq!(kinds[..4], [0, 3, 0, 3]);

        let list = json(&run("nbdinfo", &["--list", "--json", &uri]));
        let names: Vec<_> = list["exports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|export| &export["export-name"])
            .collect();
        assert_eq!(names, ["disk", "other"]);
    });
}
