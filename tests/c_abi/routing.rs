//! Whose a connection becomes.

use crate::programs::Build;
use crate::smbd::Smbd;

#[test]
fn an_unknown_client_gets_a_child_of_its_own_and_all_its_connections_the_same() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let first = smbd.client([1; 16]);
        let one: Vec<_> = smbd.connections().into_iter().collect();
        let (child, parent) = (one[0].0, i64::from(smbd.program.id()));
        assert!(one.len() == 1 && child != parent, "{one:?}");

        let second = smbd.client([1; 16]);
        assert!(smbd.connections().into_iter().eq([(child, 2)]));

        let other = smbd.client([2; 16]);
        let connections = smbd.connections();
        assert_eq!(connections.get(&child), Some(&2), "{connections:?}");
        assert_eq!(connections.len(), 2, "{connections:?}");

        // The child ends with the last of its connections, and the client is unknown again.
        first.close();
        smbd.wait_for_connections(2);
        let third = smbd.client([1; 16]);
        assert_eq!(smbd.connections().get(&child), Some(&2));
        second.close();
        third.close();
        let gone = |status: &serde_json::Value| status["totals"]["clients"] == 1;
        smbd.daemon.wait_for_status(gone);
        let again = smbd.client([1; 16]);
        assert_eq!(smbd.connections().get(&child), None, "another process");
        again.close();
        other.close();
        smbd.finish();
    }
}
