//! The API as its users meet it: the real daemon, its socket, good and bad requests.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use gateway::traffic::{ANSWER_WITHIN, echo_tcp, echo_udp, ping};
use serde_json::Value;

use common::{Daemon, PROGRAM, Scratch};

/// One uplink, two networks, three endpoints; published ports.
const CONFIG: &str = r#"
[gateway]
workers = 2
metrics = "127.0.0.1:METRICS"

[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
create = true
addresses = ["192.0.2.10/24"]
host_addresses = ["192.0.2.1/24"]
gateway = "192.0.2.1"

[network.front]
subnet = "10.1.0.0/24"

[network.back]
subnet = "10.2.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80", "8000-8010:9000-9010/udp"]
network = [{ name = "front", ip = "10.1.0.10" }]

[endpoint.client]
attach = { netns = "PREFIXclient", create = true }
network = [{ name = "front", ip = "10.1.0.11" }]

[endpoint.vm]
attach = { netns = "PREFIXvm", create = true }
network = [{ name = "back", ip = "10.2.0.11", anti_spoofing = false }]
"#;

/// A daemon that serves [`CONFIG`].
struct Setup {
    scratch: Scratch,
    daemon: Daemon,
    metrics: u16,
}

impl Setup {
    fn new(test: &str) -> Setup {
        let scratch = Scratch::new(test);
        let metrics = free_port();
        let config = scratch.config(&CONFIG.replace("METRICS", &metrics.to_string()));
        let mut daemon = Daemon::start(&config);
        daemon.wait_ready();
        Setup { scratch, daemon, metrics }
    }

    fn get(&self, path: &str) -> Value {
        let answer = request(&self.scratch.socket(), "GET", path, "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    fn refused(&self, method: &str, path: &str, body: &str) -> Answer {
        let answer = request(&self.scratch.socket(), method, path, body);
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{}", answer.body);
        answer
    }

    fn end(mut self) {
        assert!(self.daemon.terminate().success(), "{:?}", self.daemon.log);
        assert_eq!(self.scratch.namespaces_left(), [""; 0]);
        assert!(!self.scratch.socket().exists(), "the socket is gone");
    }
}

/// A port of this host that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn of(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

/// Speaks HTTP by hand, so that the daemon is judged by no code of its own.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\
         \r\n{body}"
    );
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // An answer may come before the whole body was taken.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    // A body that was not taken whole may end the connection behind the answer.
    let _ = stream.read_to_end(&mut answer);
    Answer::of(&text(&answer))
}

fn show(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("show").args(arguments).arg("--socket").arg(scratch.socket()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Looks again and again until something is so.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_the_gateway_does_is_seen_in_every_resource() {
    let setup = Setup::new("resources");
    let [outside, web, client] = ["outside", "web", "client"].map(|name| setup.scratch.path(name));
    let published = (address("192.0.2.10"), 8080).into();
    let listening = (address("10.1.0.10"), 80).into();
    // Many daemons share few CPUs here: one echo may be too slow for its own patience.
    wait_until("echoed", || echo_tcp((&web, listening), (&outside, published), 50_000).ok());
    let server = (address("192.0.2.1"), 53).into();
    wait_until("echoed", || echo_udp((&outside, server), (&client, server), &[100]).ok());
    ping(&setup.scratch.path("vm"), address("192.0.2.1"), ANSWER_WITHIN).unwrap();

    let status = setup.get("/v1/status");
    assert_eq!((&status["workers"], &status["endpoints"]), (&2.into(), &3.into()));
    let flows = setup.get("/v1/flows?protocol=tcp&endpoint=web");
    let flows = flows["items"].as_array().unwrap().iter();
    let flow = flows.max_by_key(|flow| flow["bytes"].as_u64()).unwrap();
    assert_eq!(flow["original"]["destination"], "192.0.2.10");
    assert_eq!(flow["translated"]["destination"], "10.1.0.10");
    assert_eq!((&flow["ingress"], &flow["egress"]), (&"wan".into(), &"web/front".into()));
    assert!(flow["bytes"].as_u64().unwrap() > 50_000, "{flow}");
    let flows = setup.get("/v1/flows?protocol=udp&address=10.1.0.11");
    assert_eq!(flows["items"][0]["translated"]["source"], "192.0.2.10");
    assert_eq!(setup.get("/v1/flows?network=back")["items"].as_array().unwrap().len(), 1);
    assert_eq!(setup.get("/v1/flows?network=back&endpoint=web")["items"], serde_json::json!([]));

    let fdb = setup.get("/v1/fdb?network=back");
    assert_eq!(fdb["items"][0]["kind"], "member");
    let neighbours = setup.get("/v1/neighbours");
    let neighbour = &neighbours["items"][0];
    assert_eq!((&neighbour["address"], &neighbour["port"]), (&"192.0.2.1".into(), &"wan".into()));
    assert_eq!(neighbour["state"], "reachable");
    let publish = setup.get("/v1/publish");
    assert_eq!(publish["items"][1]["port_count"], 11);
    assert_eq!(setup.get("/v1/uplinks")["items"][0]["gateways"][0], "192.0.2.1");
    assert_eq!(setup.get("/v1/routes")["items"].as_array().unwrap().len(), 2);
    let ports = setup.get("/v1/ports");
    let port = ports["items"].as_array().unwrap().iter().find(|p| p["name"] == "web/front");
    assert!(port.unwrap()["tx_bytes"].as_u64().unwrap() > 50_000);
    let networks = setup.get("/v1/networks");
    assert!(networks["items"][0]["rx_packets"].as_u64().unwrap() > 10);
    let workers = setup.get("/v1/workers");
    for worker in workers["items"].as_array().unwrap() {
        assert!(worker["chunks_free"].as_u64().unwrap() > 0, "{worker}");
        assert!(worker["idle_share"].as_f64().unwrap() > 0.2, "nothing is to be done: {worker}");
    }
    setup.end();
}

#[test]
fn an_unpublished_port_is_a_drop_with_its_reason_stage_and_advice() {
    let setup = Setup::new("drops");
    let outside = setup.scratch.path("outside");
    let closed = (address("192.0.2.10"), 9999).into();
    let nobody = (address("10.1.0.10"), 80).into();
    let refused = echo_tcp((&setup.scratch.path("web"), nobody), (&outside, closed), 10);
    assert!(refused.is_err());
    let drops = setup.get("/v1/drops");
    let drops = drops["items"].as_array().unwrap();
    let drop = drops.iter().find(|drop| drop["reason"] == "closed_port").unwrap();
    assert_eq!(drop["stages"][0]["stage"], "local");
    assert_eq!(drop["advice"], "publish the port");
    let shares = drop["workers"].as_array().unwrap().iter();
    let sum: u64 = shares.map(|share| share["packets"].as_u64().unwrap()).sum();
    assert_eq!(drop["packets"], sum);
    let table = text(&show(&setup.scratch, &["drops"]).stdout);
    assert!(table.contains("closed_port") && table.contains("local:1"), "{table}");
    setup.end();
}

#[test]
fn a_long_list_is_walked_by_cursor_and_each_flow_is_seen_once() {
    let setup = Setup::new("pages");
    let (outside, client) = (setup.scratch.path("outside"), setup.scratch.path("client"));
    for port in 20_000..20_040 {
        let server = (address("192.0.2.1"), port).into();
        echo_udp((&outside, server), (&client, server), &[10]).unwrap();
    }
    let mut seen = Vec::new();
    let mut path = "/v1/flows?limit=7&protocol=udp".to_owned();
    loop {
        let page = setup.get(&path);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        let ports = items.iter().map(|flow| flow["original"]["destination_port"].as_u64().unwrap());
        seen.extend(ports);
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/flows?limit=7&protocol=udp&cursor={next}");
    }
    seen.sort_unstable();
    assert_eq!(seen, (20_000..20_040).collect::<Vec<_>>());
    let endpoints = setup.get("/v1/endpoints?limit=2");
    let next = endpoints["next"].as_str().unwrap();
    let rest = setup.get(&format!("/v1/endpoints?limit=2&cursor={next}"));
    assert_eq!((&rest["items"][0]["name"], &rest["next"]), (&"vm".into(), &Value::Null));
    let limited = show(&setup.scratch, &["flows", "--protocol", "udp", "--limit", "5", "--json"]);
    let limited: Value = serde_json::from_slice(&limited.stdout).unwrap();
    assert_eq!(limited.as_array().unwrap().len(), 5);
    setup.end();
}

#[test]
fn bad_requests_get_the_right_status_and_a_hint() {
    let setup = Setup::new("bad");
    let hint = |answer: &Answer| answer.json()["hint"].as_str().unwrap_or_default().to_owned();
    let answer = setup.refused("DELETE", "/v1/flows", "");
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
    let answer = setup.refused("GET", "/v1/reload", "");
    assert!(answer.status == 405 && answer.head.contains("allow: post"), "{}", answer.head);
    let answer = setup.refused("GET", "/v1/flow", "");
    assert_eq!((answer.status, hint(&answer)), (404, "did you mean `/v1/flows`?".into()));
    assert_eq!(setup.refused("PUT", "/v2/../../etc/passwd", "").status, 404);
    let answer = setup.refused("GET", "/v1/flows?endpoint=wbe", "");
    assert_eq!((answer.status, hint(&answer)), (400, "did you mean `web`?".into()));
    for path in [
        "/v1/flows?adress=10.1.0.1",
        "/v1/flows?address=10.1.0.256",
        "/v1/flows?protocol=tpc",
        "/v1/flows?limit=0",
        "/v1/flows?cursor=elsewhere",
        "/v1/ports?endpoint=web",
        "/v1/fdb?network=%FF%00",
    ] {
        let answer = setup.refused("GET", path, "");
        assert!(answer.status == 400 && !hint(&answer).is_empty(), "{path}: {answer:?}");
    }
    assert_eq!(setup.refused("GET", "/v1/ports?cursor=99.0", "").status, 410);
    assert_eq!(
        setup.get("/v1/flows?cursor=4294967296.99999999999")["items"],
        serde_json::json!([])
    );
    setup.end();
}

#[test]
fn wrong_json_is_refused_with_its_place_and_nothing_changes() {
    let setup = Setup::new("json");
    for (body, place) in [
        ("{\n  \"dry_run\": yes\n}", "line 2 column 14"),
        ("{\"dry_run\": 1}", "line 1 column 13"),
        ("{\"dryrun\": true}", "unknown field `dryrun`"),
        ("[1]", "line 1"),
        ("\u{0}", "line 1 column 1"),
    ] {
        let answer = setup.refused("POST", "/v1/reload", body);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && error.contains(place), "{body}: {error}");
    }
    let status = setup.get("/v1/status");
    assert_eq!((&status["reloads_applied"], &status["reloads_refused"]), (&0.into(), &0.into()));
    setup.end();
}

#[test]
fn a_huge_body_is_refused_before_it_is_read_and_also_if_it_hides_its_length() {
    let setup = Setup::new("huge");
    for length in [65_537, 900_000, 20_000_000] {
        let answer = setup.refused("POST", "/v1/reload", &" ".repeat(length));
        assert_eq!(answer.status, 413);
    }
    let answer = setup.refused("GET", "/v1/flows", &" ".repeat(70_000));
    assert_eq!(answer.status, 413);
    assert!(answer.json()["hint"].as_str().unwrap().contains("65536"));
    let mut stream = UnixStream::connect(setup.scratch.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = "POST /v1/reload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    for _ in 0..3 {
        // It may be refused while it is still being sent.
        let _ = stream.write_all(chunk.as_bytes());
    }
    let mut answer = [0; 64];
    let count = stream.read(&mut answer).unwrap();
    assert!(text(&answer[..count]).starts_with("HTTP/1.1 413"), "{}", text(&answer[..count]));
    let head = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let mut stream = UnixStream::connect(setup.scratch.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", text(&answer));
    setup.end();
}

#[test]
fn slow_silent_and_many_clients_do_not_keep_others_from_their_answer() {
    let setup = Setup::new("slow");
    let connect = || UnixStream::connect(setup.scratch.socket()).unwrap();
    let mut slow = connect();
    slow.write_all(b"GET /v1/status HTTP/1.1\r\nhost").unwrap();
    let began = Instant::now();
    let silent: Vec<UnixStream> = (0..63).map(|_| connect()).collect();
    // All places are taken now. One more is told so, at once.
    let told = wait_until("told that there are too many", || {
        let mut stream = connect();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
            .write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let answer = Answer::of(&answer);
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(told.json()["error"], "too many connections");
    // Traffic goes on meanwhile, and the metrics have places of their own.
    ping(&setup.scratch.path("client"), address("10.1.0.10"), ANSWER_WITHIN).unwrap();
    assert!(scrape(setup.metrics, "").1.contains("portolan_build_info"));
    // Who does not say in time what it wants is sent away.
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    let waited = began.elapsed();
    assert!((9..25).contains(&waited.as_secs()), "{waited:?}");
    wait_until("answered again", || {
        let mut stream = connect();
        stream
            .write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (Answer::of(&answer).status == 200).then_some(())
    });
    drop(silent);
    setup.end();
}

#[test]
fn reload_answers_with_the_changes_and_a_refused_one_with_every_error() {
    let setup = Setup::new("reload");
    let file = setup.scratch.folder.path().join("gateway.toml");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, old.replace("\"8080:80\"", "\"8081:80\"")).unwrap();
    let socket = setup.scratch.socket();
    let answer = request(&socket, "POST", "/v1/reload", "{\"dry_run\": true}").json();
    assert_eq!((&answer["dry_run"], &answer["generation"]), (&true.into(), &1.into()));
    let answer = request(&socket, "POST", "/v1/reload", "").json();
    assert_eq!((&answer["dry_run"], &answer["generation"]), (&false.into(), &2.into()));
    assert_eq!(answer["changes"].as_array().unwrap().len(), 2, "{answer}");
    let published = setup.get("/v1/publish");
    assert_eq!(published["items"][0]["host_port"], 8081);
    std::fs::write(&file, old.replace("10.1.0.10", "10.9.0.10").replace("workers", "wrokers"))
        .unwrap();
    let answer = request(&socket, "POST", "/v1/reload", "");
    assert_eq!(answer.status, 422);
    let findings = answer.json()["findings"].as_array().unwrap().len();
    assert!(findings >= 2, "{}", answer.body);
    let output = Command::new(PROGRAM).args(["reload", "--socket"]).arg(&socket).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.contains("wrokers") && log.contains("10.9.0.10"), "{log}");
    assert!(log.contains("nothing has changed"), "{log}");
    std::fs::write(&file, old).unwrap();
    let output = Command::new(PROGRAM).args(["reload", "--socket"]).arg(&socket).output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("generation 3"));
    setup.end();
}

#[test]
fn everything_can_be_shown_as_a_table_and_as_json() {
    let setup = Setup::new("show");
    ping(&setup.scratch.path("client"), address("192.0.2.1"), ANSWER_WITHIN).unwrap();
    for (what, word) in [
        ("status", "running for"),
        ("networks", "10.1.0.0/24"),
        ("endpoints", "8000-8010:9000-9010/udp"),
        ("ports", "web/front"),
        ("fdb", "member"),
        ("groups", ""),
        ("flows", "icmp"),
        ("neighbours", "reachable"),
        ("mtu", "uplink wan"),
        ("routes", "on link"),
        ("publish", "*:8000-8010"),
        ("uplinks", "192.0.2.10/24"),
        ("workers", "IDLE"),
        ("drops", "WHAT TO DO"),
    ] {
        let output = show(&setup.scratch, &[what]);
        let table = text(&output.stdout);
        assert!(output.status.success() && table.contains(word), "{what}:\n{table}");
        let output = show(&setup.scratch, &[what, "--json"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(value.is_array() || what == "status", "{what}: {value}");
    }
    let output = show(&setup.scratch, &["flows", "--endpoint", "wbe"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean `web`?"));
    setup.end();
}

#[test]
fn who_may_not_use_the_socket_is_told_whom_it_is_for() {
    let setup = Setup::new("rights");
    let mode = std::fs::metadata(setup.scratch.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Where the program was built other users may not enter.
    let program = setup.scratch.folder.path().join("portolan");
    std::fs::copy(PROGRAM, &program).unwrap();
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(setup.scratch.folder.path(), open).unwrap();
    let mut command = Command::new(program);
    command.args(["show", "ports", "--socket"]).arg(setup.scratch.socket());
    let output = command.uid(65_534).gid(65_534).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.contains("be root") && log.contains("api_group"), "{log}");
    setup.end();
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_ones_socket_is_replaced() {
    let setup = Setup::new("second");
    let config = setup.scratch.folder.path().join("second.toml");
    let state = setup.scratch.folder.path().join("other-state");
    let socket = setup.scratch.socket();
    std::fs::write(&config, format!("[gateway]\napi = {socket:?}\nstate = {state:?}\n")).unwrap();
    let mut second = Daemon::start(&config);
    assert_eq!(second.wait_end().code(), Some(1));
    let log = second.log.join("\n");
    assert!(log.contains("running already"), "{log}");
    setup.get("/v1/status");
    let Setup { scratch, mut daemon, .. } = setup;
    assert!(daemon.terminate().success());
    assert!(!scratch.socket().exists());
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut third = Daemon::start(&config);
    third.wait_ready();
    assert_eq!(request(&socket, "GET", "/v1/version", "").json()["api"], 1);
    assert!(third.terminate().success());
}

/// Head and body of what is served at the address of the metrics.
fn scrape(port: u16, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn metrics_count_traffic_and_what_a_port_counted_outlives_it_in_its_network() {
    let setup = Setup::new("metrics");
    let (client, web) = (setup.scratch.path("client"), address("10.1.0.10"));
    ping(&client, web, ANSWER_WITHIN).unwrap();
    let value = |name: &str| {
        let (_, body) = scrape(setup.metrics, "");
        let line = body.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let port = "portolan_port_rx_packets_total{port=\"client/front\",endpoint=\"client\"";
    let network = "portolan_network_rx_packets_total{network=\"front\"}";
    assert!(value(port).unwrap() >= 1.0);
    let before = value(network).unwrap();
    let file = setup.scratch.folder.path().join("gateway.toml");
    let old = std::fs::read_to_string(&file).unwrap();
    let begin = old.find("[endpoint.client]").unwrap();
    let end = old.find("[endpoint.vm]").unwrap();
    std::fs::write(&file, format!("{}{}", &old[..begin], &old[end..])).unwrap();
    let answer = request(&setup.scratch.socket(), "POST", "/v1/reload", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(value(port), None, "a port that is gone has no series");
    assert!(value(network).unwrap() >= before, "its network's sum does not fall");
    std::fs::write(&file, &old).unwrap();
    request(&setup.scratch.socket(), "POST", "/v1/reload", "");
    assert!(value(port).unwrap() < before, "it begins anew");
    let (head, body) = scrape(setup.metrics, "accept: application/openmetrics-text\r\n");
    assert!(head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"));
    let same = request(&setup.scratch.socket(), "GET", "/metrics", "");
    assert!(same.body.contains("# TYPE portolan_port_rx_packets_total counter"));
    setup.end();
}

#[test]
fn systemd_hears_of_readiness_reload_and_end_and_the_watchdog_is_fed_though_workers_sleep() {
    let scratch = Scratch::new("notify");
    let path = scratch.folder.path().join("notify.sock");
    let heard = UnixDatagram::bind(&path).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let config = scratch.config("\n[gateway]\nworkers = 2\nidle = \"interrupt\"\nlog = \"json\"\n");
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c"]).arg(&config).env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "400000");
    let mut daemon = Daemon::spawn(command);
    let next = || {
        let mut bytes = [0; 4096];
        let count = heard.recv(&mut bytes).unwrap();
        text(&bytes[..count])
    };
    let wait = |what: &str| wait_until(what, || Some(next()).filter(|said| said.contains(what)));
    assert!(wait("READY=1").contains("STATUS=0 ports, 2 workers"));
    daemon.wait_ready();
    for _ in 0..5 {
        wait("WATCHDOG=1");
    }
    daemon.signal(rustix::process::Signal::HUP);
    assert!(wait("RELOADING=1").contains("MONOTONIC_USEC="));
    wait("READY=1");
    daemon.signal(rustix::process::Signal::TERM);
    wait("STOPPING=1");
    assert!(daemon.wait_end().success());
    let json = daemon.log.iter().filter(|line| *line != "ready");
    for line in json {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
    }
}
