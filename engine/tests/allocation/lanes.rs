//! To the wire and off it, where members are on the uplink's link.

use engine::tables::Between;

use super::*;

/// Each way that members reach each other, untagged and on a VLAN, with and without MAC addresses
/// of their own, and whether a member gets everything.
fn each(test: impl Fn(Option<u16>, Between, bool, bool)) {
    for tag in [None, Some(100)] {
        for between in [Between::Straight, Between::Never, Between::ByWire] {
            for (shares_mac, is_whole) in [(false, false), (true, false), (false, true)] {
                test(tag, between, shares_mac, is_whole);
            }
        }
    }
}

/// A frame as the wire has it.
fn wired(tag: Option<u16>, bytes: Vec<u8>) -> Vec<u8> {
    match tag {
        Some(tag) => tagged(tag, &bytes),
        None => bytes,
    }
}

#[test]
fn frames_of_members_to_the_wire_and_off_it_allocate_nothing() {
    each(|tag, between, shares_mac, is_whole| {
        for workers in [1, 2, 4] {
            let tables = on_link(tag, between, shares_mac, is_whole);
            let mut engine = Engine::with_tables(workers, tables);
            let to = if shares_mac { WAN_MAC } else { WEB.mac };
            let before = (engine.sent(&CLIENT), engine.sent(&WEB));
            for v6 in [false, true] {
                for _ in 0..200 {
                    let out = on_wire((&WEB, WEB.mac), (&CLIENT, CLIENT.mac), v6);
                    engine.prepare(&WEB, out);
                    let back = on_wire((&CLIENT, CLIENT.mac), (&WEB, to), v6);
                    engine.prepare(&CLIENT, wired(tag, back));
                }
                engine.settle("frames by batches");
                // One by one: to each other, to everybody, questions, and nonsense.
                for _ in 0..20 {
                    engine.prepare(&WEB, on_wire((&WEB, WEB.mac), (&DB, DB.mac), v6));
                    engine.prepare(&WEB, who_has(&WEB, CLIENT.ip(v6)));
                    engine.prepare(&CLIENT, wired(tag, who_has(&CLIENT, WEB.ip(v6))));
                    let all = strange(CLIENT.mac, MacAddress::BROADCAST);
                    engine.prepare(&CLIENT, wired(tag, all));
                    let stranger = on_wire((&CLIENT, CLIENT.mac), (&WEB, to), v6);
                    engine.prepare(&CLIENT, tagged(99, &stranger));
                    engine.prepare(&CLIENT, tagged(100, &stranger[..20]));
                    engine.settle("frames one by one");
                }
            }
            let after = (engine.sent(&CLIENT) - before.0, engine.sent(&WEB) - before.1);
            let case = format!("{tag:?} {between:?} {shares_mac} {is_whole} {workers}: {after:?}");
            assert!(after.0 >= 400 && after.1 >= 400, "{case}");
        }
    });
}
