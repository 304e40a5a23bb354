//! Docker's overlay by a key-value store, live: two engines, and a gateway as the third member.
//!
//! ```text
//! o1 -- dockerd 192.0.2.1 --+          +-- etcd, Serf 192.0.2.100
//! o2 -- dockerd 192.0.2.2 --+- switch -+-- wan0 [gateway 192.0.2.10] -- near
//! ```
//!
//! What the gateway's config says of the others is read from etcd, where Docker writes it: the
//! network's VNI, and each endpoint's address, MAC and machine. Docker hears of the gateway's
//! endpoint as of any other, by a Serf event. What passes is captured and judged by tshark.
//!
//! Needs root, `docker.io` of Debian 12 (20.10: later ones have no `--cluster-store`),
//! `etcd-server`, `serf`, `tcpdump` and `tshark`; does not skip without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gateway::netns::{self, Namespace};
use gateway::traffic::in_namespace;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use common::host::start_on;
use common::partners::{Capture, Running, wait_until};
use common::tunnels::{check_all, host_of, ip, wait_for_ping};
use common::{Daemon, Scratch};

const ETCD: &str = "192.0.2.100:2379";

/// Debian's own programs, whatever else this machine has.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "wan0"
host_side = false
addresses = ["192.0.2.10/24"]

[network.ov]
driver = "overlay"
vni = VNI
subnet = "10.66.0.0/24"
gateway = "10.66.0.254"
remote = [REMOTES]

[endpoint.near]
attach = { netns = "PREFIXnear", create = true }
network = [{ name = "ov", ip = "10.66.0.10", mac = "02:42:0a:42:00:0a" }]
"#;

/// Asks an HTTP server; what it answers as JSON, or null if that is nothing.
fn ask(mut stream: impl Read + Write, request: &str, kind: &str, body: &[u8]) -> Value {
    // Of version 1.0, so that the answer comes in one piece and ends with the connection.
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.0\r\nHost: partner\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let mut answer = Vec::new();
    let both = [head.as_bytes(), body].concat();
    let exchanged = stream.write_all(&both).and_then(|()| stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // A server that is done with us may end the connection with what it did not read of us.
    assert!(answer.contains("\r\n\r\n"), "{request}: {exchanged:?}, {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(
        head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
        "{request}: {answer}"
    );
    serde_json::from_str(body).unwrap_or(Value::Null)
}

/// A value that Docker keeps in etcd, below its own folder.
fn stored(host: &Path, key: &str) -> Value {
    let address: SocketAddr = ETCD.parse().unwrap();
    let stream = in_namespace(host, || std::net::TcpStream::connect(address)).unwrap();
    let request = format!("GET /v2/keys/docker/network/v1.0/{key}?recursive=true");
    ask(stream, &request, "text/plain", b"")["node"].take()
}

/// The JSON text that a node of etcd holds.
fn held(node: &Value) -> Value {
    serde_json::from_str(node["value"].as_str().unwrap()).unwrap()
}

/// A Docker engine on a machine of its own.
struct Engine {
    space: Namespace,
    folder: PathBuf,
    cgroup: String,
    dockerd: Option<Running>,
}

impl Engine {
    fn start(scratch: &Scratch, host: &Namespace, number: u8) -> Engine {
        let name = format!("docker{number}");
        let space = Namespace::create(&scratch.name(&name)).unwrap();
        let (own, wire) = (scratch.name(&name), scratch.name("host"));
        ip(space.path(), "ip link set lo up");
        let lines = format!(
            "ip link add eth{number} type veth peer name eth0 netns {own}
             ip link set eth{number} master br0 up"
        );
        ip(host.path(), &lines);
        ip(space.path(), &format!("ip addr add 192.0.2.{number}/24 dev eth0"));
        ip(space.path(), "ip link set eth0 up");
        let folder = scratch.folder.path().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("daemon.json"), "{}").unwrap();
        let cgroup = format!("{wire}-{name}");
        // Serf tells members apart by their host names.
        let script = format!(
            "hostname {name} && cd {} && exec dockerd --config-file $PWD/daemon.json \
             --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/pid \
             --host unix://$PWD/docker.sock --storage-driver vfs --iptables=false \
             --cgroup-parent /{cgroup} --cluster-store etcd://{ETCD} \
             --cluster-advertise 192.0.2.{number}:2376 2> log",
            folder.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--uts", "--mount", "sh", "-c", &script]).env("PATH", PROGRAMS);
        let dockerd = Some(Running::start_heard(space.path(), &mut command));
        Engine { space, folder, cgroup, dockerd }
    }

    /// What it has said, to be read when something is wrong.
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn is_up(&self) -> bool {
        UnixStream::connect(self.folder.join("docker.sock")).is_ok()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(&format!("POST {path}"), "application/json", body.to_string().as_bytes())
    }

    fn ask(&self, request: &str, kind: &str, body: &[u8]) -> Value {
        ask(UnixStream::connect(self.folder.join("docker.sock")).unwrap(), request, kind, body)
    }

    /// Starts a container in the overlay; returns the path of its network namespace.
    fn run(&self, name: &str, address: &str) -> PathBuf {
        // An image with nothing in it (the end of an archive): the machine's programs are lent.
        self.ask("POST /images/create?fromSrc=-&repo=none&tag=1", "application/x-tar", &[0; 1024]);
        let lent = ["bin", "lib", "lib64", "usr"].map(|path| format!("/{path}:/{path}:ro"));
        let container = json!({
            "Image": "none:1",
            "Cmd": ["/bin/sleep", "100000"],
            "HostConfig": { "NetworkMode": "ov", "Binds": lent },
            "NetworkingConfig": {
                "EndpointsConfig": { "ov": { "IPAMConfig": { "IPv4Address": address } } }
            }
        });
        self.post(&format!("/containers/create?name={name}"), &container);
        self.post(&format!("/containers/{name}/start"), &Value::Null);
        let container = self.ask(&format!("GET /containers/{name}/json"), "text/plain", b"");
        PathBuf::from(format!("/proc/{}/ns/net", container["State"]["Pid"]))
    }

    /// What the engine left running, if it did: containers outlive it, each with a guard.
    fn end_containers(&self) {
        let tasks = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";
        let tasks = std::fs::read_dir(self.folder.join(tasks)).into_iter().flatten().flatten();
        for task in tasks {
            let text = std::fs::read_to_string(task.path().join("init.pid")).unwrap_or_default();
            let of = |text: &str| text.trim().parse().ok().and_then(Pid::from_raw);
            let Some(container) = of(&text) else { continue };
            let read = |pid: Pid, what: &str| {
                let path = format!("/proc/{}/{what}", pid.as_raw_nonzero());
                std::fs::read_to_string(path).unwrap_or_default()
            };
            // [number (name) state parent ...]
            let stat = read(container, "stat");
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| of(rest.split(' ').nth(1)?));
            let guard = parent.filter(|&pid| read(pid, "comm").starts_with("containerd-shim"));
            for pid in guard.into_iter().chain([container]) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn remove(&self, what: &str) {
        self.ask(&format!("DELETE {what}"), "text/plain", b"");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} said:\n{}", self.space.path(), self.log());
        }
        self.dockerd.take();
        self.end_containers();
        // It leaves its parent group in each hierarchy, or in the only one.
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for folder in hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(folder.join(&self.cgroup));
        }
    }
}

/// A switch with etcd at it, and two engines that share it. Dropped in this order.
struct Cluster {
    engines: [Engine; 2],
    others: Vec<Running>,
    host: Namespace,
    scratch: Scratch,
}

impl Cluster {
    fn start() -> Cluster {
        let scratch = Scratch::new("docker");
        let host = host_of(&scratch);
        ip(
            host.path(),
            "ip link add br0 type bridge
             ip addr add 192.0.2.100/24 dev br0
             ip link set br0 up",
        );
        let mut etcd = Command::new("etcd");
        etcd.args(["--enable-v2", "--listen-peer-urls", "http://127.0.0.1:2380"]);
        let url = format!("http://{ETCD}");
        etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        etcd.arg("--data-dir").arg(scratch.folder.path().join("etcd"));
        let others = vec![Running::start(host.path(), &mut etcd)];
        let address: SocketAddr = ETCD.parse().unwrap();
        wait_until("etcd", || {
            in_namespace(host.path(), || std::net::TcpStream::connect(address)).is_ok()
        });
        let engines = [1, 2].map(|number| Engine::start(&scratch, &host, number));
        for engine in &engines {
            wait_until("a Docker engine that knows `--cluster-store`", || engine.is_up());
        }
        Cluster { engines, others, host, scratch }
    }

    /// Makes the network by the first engine; its identifier, once the second knows it too.
    fn network(&self) -> String {
        let subnet = json!({ "Config": [{ "Subnet": "10.66.0.0/24" }] });
        let network = json!({ "Name": "ov", "Driver": "overlay", "IPAM": subnet });
        let id = self.engines[0].post("/networks/create", &network)["Id"].take();
        wait_until("the network at the other engine", || {
            let all = self.engines[1].ask("GET /networks", "text/plain", b"");
            all.as_array().unwrap().iter().any(|network| network["Id"] == id)
        });
        id.as_str().unwrap().to_owned()
    }

    /// The gateway's config by what Docker has written down.
    fn gateway(&self, network: &str) -> Daemon {
        let host = self.host.path();
        let overlay = held(&stored(host, &format!("overlay/network/{network}")));
        let endpoints = stored(host, &format!("endpoint/{network}"))["nodes"].take();
        let remotes = endpoints.as_array().unwrap().iter().map(held).map(|endpoint| {
            let own = &endpoint["ep_iface"];
            let ip = own["addr"].as_str().unwrap().split('/').next().unwrap();
            let (mac, vtep) = (&own["mac"], &endpoint["locator"]);
            format!("{{ ip = \"{ip}\", mac = {mac}, vtep = {vtep} }}")
        });
        let remotes: Vec<String> = remotes.collect();
        assert_eq!(remotes.len(), 2, "{remotes:?}");
        let vni = overlay["subnets"][0]["Vni"].to_string();
        let text = CONFIG.replace("VNI", &vni).replace("REMOTES", &remotes.join(", "));
        let daemon = start_on(&self.host, &self.scratch.config(&text));
        ip(host, "ip link set wan0 master br0 up");
        daemon
    }

    /// Joins Docker's Serf cluster, and says there what an engine says of a new endpoint.
    fn announce(&mut self, network: &str) {
        let host = self.host.path();
        let serf = |words: &[&str]| {
            let mut command = Command::new("serf");
            command.args(words);
            command
        };
        let bind = "-bind=192.0.2.100:7946";
        let join = ["-retry-join=192.0.2.1", "-retry-interval=200ms"];
        let mut agent = serf(&["agent", "-node=gateway", bind, join[0], join[1]]);
        self.others.push(Running::start(host, &mut agent));
        let output = |words: &[&str]| {
            let mut command = serf(words);
            netns::within(host, || command.output()).unwrap().unwrap()
        };
        wait_until("three members of Serf", || {
            let members = String::from_utf8(output(&["members"]).stdout).unwrap();
            members.matches("alive").count() == 3
        });
        let name = format!("jl 192.0.2.10 {network} {}", "0a".repeat(32));
        let event = output(&["event", &name, "join 10.66.0.10 255.255.255.0 02:42:0a:42:00:0a"]);
        assert!(event.status.success(), "{}", String::from_utf8_lossy(&event.stderr));
    }
}

#[test]
fn a_gateway_is_the_third_member_of_dockers_overlay() {
    let mut cluster = Cluster::start();
    let network = cluster.network();
    let addresses = ["10.66.0.2", "10.66.0.3"];
    let containers =
        [0, 1].map(|index| cluster.engines[index].run(["o1", "o2"][index], addresses[index]));
    // The partner works by itself.
    wait_for_ping(&containers[0], addresses[1]);
    let mut daemon = cluster.gateway(&network);
    let capture = Capture::start(
        cluster.host.path(),
        "br0",
        cluster.scratch.folder.path().join("docker.pcap"),
    );
    cluster.announce(&network);
    let near = cluster.scratch.path("near");
    for (container, address) in containers.iter().zip(addresses) {
        check_all((&near, "10.66.0.10"), (container, address), 1_450);
    }
    // Nothing is learnt: a member of Docker's that came later is not there yet.
    let nobody = "10.66.0.77".parse().unwrap();
    assert!(gateway::traffic::ping(&near, nobody, Duration::from_millis(300)).is_err());
    let ours = capture.check(4_789);
    assert!(ours > 30, "{ours} of our packets were VXLAN");
    assert!(daemon.terminate().success());
    for (engine, name) in cluster.engines.iter().zip(["o1", "o2"]) {
        engine.remove(&format!("/containers/{name}?force=true"));
    }
    cluster.engines[0].remove("/networks/ov");
    let Cluster { host, scratch, engines, others } = cluster;
    let groups = engines.each_ref().map(|engine| engine.cgroup.clone());
    drop(engines);
    drop(others);
    drop(host);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!text.contains(scratch.folder.path().to_str().unwrap()), "{text}");
    for group in groups {
        assert!(!Path::new("/sys/fs/cgroup").join("pids").join(group).exists());
    }
}
