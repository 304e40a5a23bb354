//! Bad input in every dialect: each mistake in one run, with its line, column and path.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod clock;

use std::time::Duration;

use clock::cpu_time;

use config::Dialect::{Cni, Dcos, Docker, Marathon, Native};
use config::{Diagnostic, Dialect, Severity, check_dialect, read_text};

/// What is found, as `line:column path: message`, errors only.
fn errors(dialect: Dialect, text: &str) -> Vec<String> {
    match check_dialect(dialect, "x", text, &[]) {
        Ok(_) => Vec::new(),
        Err(found) => shown(&found, Severity::Error),
    }
}

fn shown(found: &[Diagnostic], severity: Severity) -> Vec<String> {
    let found = found.iter().filter(|one| one.severity == severity);
    found.map(|one| format!("{}:{} {}: {}", one.line, one.column, one.path, one.message)).collect()
}

fn all(dialect: Dialect, text: &str) -> Vec<Diagnostic> {
    match check_dialect(dialect, "x", text, &[]) {
        Ok(checked) => checked.warnings,
        Err(found) => found,
    }
}

/// A good file of each form that is read, in which faults are made.
const FILES: [(&str, Dialect, &str); 8] = [
    (
        "app",
        Marathon,
        r#"{"id": "/a", "cmd": "x", "instances": 1, "networks": [{"mode": "host"}]}"#,
    ),
    ("state", Dcos, r#"{"overlays": [{"info": {"name": "a"}, "subnet": "9.0.0.0/24"}]}"#),
    ("cluster", Dcos, "dcos_overlay_enable: true\ndcos_overlay_mtu: 1420\n"),
    (
        "cni",
        Cni,
        r#"{"cniVersion": "0.4.0", "name": "n", "type": "bridge", "mtu": 1400, "isGateway": true}"#,
    ),
    ("inspect", Docker, r#"[{"Name": "n", "Driver": "bridge", "Internal": false}]"#),
    (
        "compose",
        Docker,
        "services:\n  a: { scale: 1, image: x }\nnetworks: { n: { driver: bridge } }\n",
    ),
    ("compose in JSON", Docker, r#"{"services": {"a": {"scale": 1, "image": "x"}}}"#),
    ("native", Native, "[network.n]\nsubnet = \"10.1.0.0/24\"\nmtu = 1400\n"),
];

#[test]
fn the_files_are_good() {
    for (name, dialect, text) in FILES {
        assert_eq!(errors(dialect, text), [""; 0], "{name}");
    }
}

#[test]
fn typographic_quotes_are_named_with_their_column() {
    let cases = [
        (0, "\"/a\"", "“/a”", ["1:8 : “ is a typographic quotation mark", "1:11 : ” is"]),
        (1, "\"a\"", "“a”", ["1:33 : “ is", "1:35 : ” is"]),
        (3, "\"n\"", "„n“", ["1:33 : „ is", "1:35 : “ is"]),
        (4, "\"n\"", "«n»", ["1:11 : « is", "1:13 : » is"]),
        (6, "\"x\"", "“x”", ["1:42 : “ is", "1:44 : ” is"]),
    ];
    for (file, good, bad, expected) in cases {
        let (name, dialect, text) = FILES[file];
        let found = errors(dialect, &text.replacen(good, bad, 1));
        assert_eq!(found.len(), 2, "{name}: {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{name}: {found}, expected {expected}");
        }
    }
    // YAML takes them for text, which nobody means.
    let found = errors(Dcos, "dcos_overlay_enable: “true”\n");
    assert_eq!(found[0], "1:22 : “ is a typographic quotation mark");
    let found = errors(Docker, "services:\n  ‘a’: { image: “x” }\n");
    assert_eq!(
        found,
        ["2:3 : ‘ is a typographic quotation mark", "2:17 : “ is a typographic quotation mark"]
    );
    assert_eq!(errors(Docker, "services:\n  a: { image: '“x”' }\n"), [""; 0], "it is meant");
    let found = all(Native, "[network.n]\nsubnet = “10.1.0.0/24”\n");
    assert_eq!((found[0].line, found[0].column), (2, 10));
    assert!(found[0].hint.as_ref().unwrap().starts_with("“ is a typographic quotation mark"));
}

#[test]
fn keys_that_are_there_twice_are_refused() {
    for (file, good, twice) in [
        (0, "\"cmd\": \"x\"", "\"cmd\": \"x\", \"cmd\": \"y\""),
        (1, "\"subnet\": \"9.0.0.0/24\"", "\"subnet\": \"9.0.0.0/24\", \"subnet\": \"9.1.0.0/24\""),
        (2, "dcos_overlay_mtu: 1420", "dcos_overlay_mtu: 1420\ndcos_overlay_mtu: 1400"),
        (3, "\"mtu\": 1400", "\"mtu\": 1400, \"mtu\": 1300"),
        (4, "\"Internal\": false", "\"Internal\": false, \"Internal\": true"),
        (5, "scale: 1", "scale: 1, scale: 2"),
        (7, "mtu = 1400", "mtu = 1400\nmtu = 1300"),
    ] {
        let (name, dialect, text) = FILES[file];
        let found = errors(dialect, &text.replacen(good, twice, 1));
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        assert!(found[0].ends_with("duplicate key"), "{name}: {found:#?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_their_path() {
    for (file, good, path) in [
        (0, "\"instances\": 1", "instances: "),
        (2, "dcos_overlay_mtu: 1420", "dcos_overlay_mtu: "),
        (3, "\"mtu\": 1400", "mtu: "),
        (5, "scale: 1", "services.a.scale: "),
        (6, "\"scale\": 1", "services.a.scale: "),
        (7, "mtu = 1400", "network.n.mtu: "),
    ] {
        let (name, dialect, text) = FILES[file];
        let digits = good.trim_start_matches(|c: char| !c.is_ascii_digit());
        for number in ["-1", "99999999999999999999", "9223372036854775807", "1e400", "1.5"] {
            if dialect == Native && number == "1e400" {
                continue;
            }
            let text = text.replacen(good, &good.replace(digits, number), 1);
            let found = errors(dialect, &text);
            assert_eq!(found.len(), 1, "{name} {number}: {found:#?}");
            let has_path = found[0].split_once(' ').unwrap().1.starts_with(path);
            // TOML itself has no such whole numbers.
            assert!(has_path || dialect == Native, "{name} {number}: {found:#?}");
        }
    }
}

#[test]
fn unknown_fields_are_told_with_the_nearest_known_one() {
    for (file, good, bad, near) in [
        (0, "instances", "instanecs", "instances"),
        (2, "dcos_overlay_mtu", "dcos_overlay_mut", "dcos_overlay_mtu"),
        (3, "isGateway", "isGatway", "isGateway"),
        (4, "Internal", "Internl", "Internal"),
        (5, "driver", "drivr", "driver"),
        (7, "mtu", "mut", "mtu"),
    ] {
        let (name, dialect, text) = FILES[file];
        let found = all(dialect, &text.replacen(good, bad, 1));
        let hint = format!("did you mean {near}?");
        let told = found.iter().any(|one| one.hint.as_ref() == Some(&hint));
        assert!(told, "{name}: {found:#?}");
    }
}

#[test]
fn wrong_charsets_are_said_and_a_byte_order_mark_is_not_minded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (name, dialect, text) in FILES {
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path)
        };
        let marked = read(&[b"\xef\xbb\xbf", text.as_bytes()].concat()).unwrap();
        assert_eq!(errors(dialect, &marked), [""; 0], "{name}");
        let utf16: Vec<u8> =
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let found = read(&utf16).unwrap_err();
        assert_eq!(
            (found[0].line, found[0].column, &*found[0].message),
            (1, 1, "this is not UTF-8")
        );
        assert!(found[0].hint.as_ref().unwrap().contains("UTF-16"));
        let latin1 = [text.as_bytes(), b"\n # \xe4\n"].concat();
        let found = read(&latin1).unwrap_err();
        let line = text.lines().count() + 1 + usize::from(text.ends_with('\n'));
        assert_eq!((found[0].line as usize, found[0].column), (line, 4), "{name}");
    }
}

#[test]
fn bombs_and_deep_nesting_are_refused() {
    let bomb = (1..12).fold("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned(), |text, level| {
        let list = vec![format!("*a{}", level - 1); 10].join(",");
        format!("{text}a{level}: &a{level} [{list}]\n")
    });
    for dialect in [Docker, Dcos] {
        let found = errors(dialect, &bomb);
        assert!(found[0].contains("aliases stand for more than"), "{dialect:?}: {found:#?}");
    }
    for dialect in Dialect::ALL {
        for open in ["[", "{\"a\":", "a: [", "- "] {
            let found = errors(dialect, &open.repeat(100_000));
            assert!(!found.is_empty(), "{dialect:?} {open}");
        }
    }
}

/// A bound for the slowest machine: that time does not grow with the square of the size.
const LARGE_FILE_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn ten_megabytes_are_read_or_refused_in_time() {
    let (count, filler) = (100_000, "a".repeat(60));
    let many = |one: String| vec![one; count].join(",");
    let app = many(format!(r#"{{"id": "/a", "cmd": "x", "labels": {{"a": "{filler}"}}}}"#));
    let plugin = many(format!(r#"{{"type": "bridge", "bridge": "{filler}{filler}"}}"#));
    let network = many(format!(r#"{{"Name": "n", "Driver": "bridge", "Id": "{filler}"}}"#));
    let overlay =
        many(format!(r#"{{"info": {{"name": "a"}}, "subnet": "9.0.0.0/24", "x": "{filler}"}}"#));
    let service = |index: usize| format!("  s{index}: {{ image: {filler}{filler}, scale: -1 }}\n");
    let services: String = (0..count).map(service).collect();
    let native = |index: usize| {
        format!("[network.n{index}]\nsubnet = \"10.0.0.0/24\"\n# {filler}{filler}{filler}\n")
    };
    let networks: String = (0..count / 2).map(native).collect();
    let cases = [
        (Marathon, format!("[{app}]")),
        (Cni, format!("{{\"name\": \"n\", \"plugins\": [{plugin}]}}")),
        (Docker, format!("[{network}]")),
        (Docker, format!("services:\n{services}")),
        (Dcos, format!("{{\"overlays\": [{overlay}]}}")),
        (Native, networks),
    ];
    for (dialect, text) in cases {
        assert!(text.len() > 10_000_000, "{dialect:?} {}", text.len());
        let (found, took) = cpu_time(|| all(dialect, &text));
        println!("{dialect:?}: {} bytes, {} found in {took:?}", text.len(), found.len());
        assert!(took < LARGE_FILE_WITHIN, "{dialect:?} took {took:?}");
    }
}

/// A file and the paths of all its mistakes.
const CASES: [(Dialect, &str, &[&str]); 6] = [
    (
        Marathon,
        r#"{"id": "/a", "cmd": "x", "instances": -1, "networks": [{"mode": "wrong", "name": 7}],
                "container": {"type": "X", "portMappings": [{"containerPort": -80, "hostPort": "a",
                "servicePort": 1e9, "protocol": "x", "name": 8, "networkNames": 7,
                "labels": [1]}]}, "requirePorts": "a"}"#,
        &[
            "instances",
            "networks[0].mode",
            "networks[0].name",
            "container.type",
            "container.portMappings[0].containerPort",
            "container.portMappings[0].hostPort",
            "container.portMappings[0].servicePort",
            "container.portMappings[0].protocol",
            "container.portMappings[0].name",
            "container.portMappings[0].networkNames",
            "container.portMappings[0].labels",
            "requirePorts",
        ],
    ),
    (
        Cni,
        r#"{"cniVersion": 7, "name": 8, "type": "bridge", "bridge": 7, "isGateway": "a",
                "mtu": "c", "vlan": 9999, "ipam": {"type": "host-local", "subnet": "x",
                "rangeStart": "y", "gateway": "z", "routes": [{"dst": "q"}]}}"#,
        &[
            "cniVersion",
            "name",
            "bridge",
            "isGateway",
            "mtu",
            "vlan",
            "ipam.subnet",
            "ipam.rangeStart",
            "ipam.gateway",
            "ipam.routes[0].dst",
        ],
    ),
    (
        Cni,
        r#"{"cniVersion": "0.4.0", "name": "n", "type": "bridge", "ipam": {"type":
                "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1",
                "rangeEnd": "10.3.0.1", "gateway": "x"}}"#,
        &["ipam.rangeStart", "ipam.rangeEnd", "ipam.gateway"],
    ),
    (
        Docker,
        r#"[{"Name": 7, "EnableIPv6": "a", "Internal": "b", "IPAM": {"Config": [{"Subnet": "x",
                "Gateway": "y", "IPRange": "z"}]}, "Options": {"com.docker.network.driver.mtu":
                "q"}, "Peers": [{"IP": "p"}], "Containers": {"a": {"MacAddress": "r"}}}]"#,
        &[
            "[0].Name",
            "[0].EnableIPv6",
            "[0].Internal",
            "[0].IPAM.Config[0].Subnet",
            "[0].IPAM.Config[0].Gateway",
            "[0].IPAM.Config[0].IPRange",
            "[0].Options.\"com.docker.network.driver.mtu\"",
            "[0].Peers[0].IP",
            "[0].Containers.a.MacAddress",
        ],
    ),
    (
        Dcos,
        "dcos_overlay_mtu: 1\ndcos_overlay_network: {vtep_subnet: x, vtep_mac_oui: z, \
             overlays: [{name: host, subnet: q, prefix: 77, prefix6: a}]}\n",
        &[
            "dcos_overlay_mtu",
            "dcos_overlay_network.vtep_subnet",
            "dcos_overlay_network.vtep_mac_oui",
            "dcos_overlay_network.overlays[0].name",
            "dcos_overlay_network.overlays[0].subnet",
            "dcos_overlay_network.overlays[0].prefix",
            "dcos_overlay_network.overlays[0].prefix6",
        ],
    ),
    (
        Dcos,
        r#"{"ip": "x", "overlays": [{"info": {"name": 7}, "subnet": "q", "backend": {"vxlan":
                {"vni": -1, "vtep_ip": "q", "vtep_mac": "r"}}, "mesos_bridge": {"ip": "q"}}]}"#,
        &[
            "ip",
            "overlays[0].info.name",
            "overlays[0].subnet",
            "overlays[0].backend.vxlan.vni",
            "overlays[0].backend.vxlan.vtep_ip",
            "overlays[0].backend.vxlan.vtep_mac",
            "overlays[0].mesos_bridge.ip",
        ],
    ),
];

#[test]
fn every_mistake_of_one_object_is_told_in_one_run() {
    for (dialect, text, paths) in CASES {
        let found = errors(dialect, text);
        for path in paths {
            let is_told =
                |one: &&String| one.split_once(' ').unwrap().1.starts_with(&format!("{path}: "));
            let count = found.iter().filter(is_told).count();
            assert_eq!(count, 1, "{path} in {found:#?}");
        }
        assert_eq!(found.len(), paths.len(), "{found:#?}");
    }
}
