/* The protocol of docs/protocol.md for one block of a volume with two replicas and two hosts, one after the other.
 *
 * Host 0 holds epoch 1 and has its mirror; at any moment the volume is given to host 1, epoch 2, while host 0 lives on,
 * is cut off, or is dead. Each write has a number of its own, in rising order, and is the block's whole content. What is
 * to hold, at every read by the host whose epoch is the volume's: it returns nothing older than any write that was
 * acknowledged and any value that was read before. All other properties that matter follow from that one.
 *
 * Links between hosts and replicas fail and heal; answers are lost; commands stay under way in a replica for any time;
 * the compare-and-set's own answer is lost; hosts end anywhere.
 *
 * Wrong variants, each by a -D: ACK_FIRST, NO_FENCE, NO_DRAIN, STALE_LEG, NO_RESYNC, ASSUME_COMMIT, EARLY_SYNC,
 * TWO_AGENTS. With TWO_AGENTS, TARGET_EPOCH is the target that keeps the highest epoch itself. */

#ifndef WRITES
#define WRITES 4
#endif
#ifndef CUTS
#define CUTS 2
#endif

#define BIT(n) (1 << (n))
#define BOTH 3
#define EPOCH(host) ((host) + 1)
#define AT(host, replica) ((host) * 2 + (replica))
#define CAN_SEND(host, replica) (!cut[AT(host, replica)] && (admits[replica] & BIT(host)))

/* The volume's row. */
byte epoch = 1;
byte in_sync = BOTH;
byte fenced[2] = 1;
#ifdef TARGET_EPOCH
byte target_epoch[2] = 1;  /* kept by the target itself, which refuses to admit a host of a lower one */
#endif

/* The replicas: what is on disk, who is admitted, and what was accepted from whom and is not on disk yet. */
byte data[2];
byte admits[2] = BIT(0);
byte under_way[4];
bool cut[4];

byte next_write = 1;
byte seen;  /* the newest write that was acknowledged or read by anyone: what only the checker knows */

inline acknowledge(value) {
  if
  :: value > seen -> seen = value
  :: else
  fi
}

/* Compare-and-set of in_sync under `own` epoch. done: 0 lost for good, 1 done, 2 nobody knows. */
inline compare_and_set(own, from, to, done) {
  atomic {
    if
    :: epoch == (own) && in_sync == (from) -> in_sync = (to);
       if
       :: done = 1
       :: done = 2  /* done, its answer lost */
       fi
    :: epoch == (own) && in_sync == (from) -> done = 2  /* not done, its answer lost */
    :: !(epoch == (own) && in_sync == (from)) -> done = 0
    fi
  }
}

/* Until it is known. Reading tells: whoever else could have made the same change would have taken the epoch first. */
inline change_in_sync(own, from, to, done) {
  compare_and_set(own, from, to, done);
#ifdef ASSUME_COMMIT
  if
  :: done == 2 -> done = 1
  :: else
  fi
#else
  do
  :: done == 2 && epoch == (own) && in_sync == (to) -> done = 1
  :: done == 2 && epoch == (own) && in_sync == (from) -> compare_and_set(own, from, to, done)
  :: done == 2 && (epoch != (own) || (in_sync != (to) && in_sync != (from))) -> done = 0
  :: done != 2 -> break
  od
#endif
}

inline send(host, replica) {
  atomic {
    if
    :: !(legs & BIT(replica))
    :: (legs & BIT(replica)) && CAN_SEND(host, replica) && under_way[AT(host, replica)] == 0 ->
       under_way[AT(host, replica)] = value
    :: (legs & BIT(replica)) && !(CAN_SEND(host, replica) && under_way[AT(host, replica)] == 0) ->
       failed = failed | BIT(replica)
    fi
  }
}

/* Its answer, or the loss of it: then the command may be on disk, or still get there, or never. */
inline await(host, replica) {
  if
  :: !(legs & BIT(replica)) || (failed & BIT(replica))
  :: (legs & BIT(replica)) && !(failed & BIT(replica)) && under_way[AT(host, replica)] == 0 &&
     data[replica] >= value
  :: (legs & BIT(replica)) && !(failed & BIT(replica)) && (cut[AT(host, replica)] || !(admits[replica] & BIT(host))) ->
     failed = failed | BIT(replica)
  fi
}

inline write(host) {
  atomic { value = next_write; next_write++; failed = 0 }
  send(host, 0);
  send(host, 1);
  await(host, 0);
  await(host, 1);
  if
  :: failed == 0 -> atomic { acknowledge(value) }
  :: failed == legs -> goto stopped  /* the last leg never leaves; the guest gets an error */
  :: failed != 0 && failed != legs ->
#ifdef ACK_FIRST
     atomic { acknowledge(value) }
#endif
     change_in_sync(EPOCH(host), legs, legs & ~failed, done);
     if
     :: done == 1 -> atomic { legs = legs & ~failed; acknowledge(value) }
     :: done == 0 -> goto stopped  /* lost its epoch */
     fi
  fi;
  value = 0
}

/* By one leg. A host that was cut off may still read, and read what is old: only the current one is judged. */
inline read_from(host, replica) {
  atomic {
    (legs & BIT(replica)) && CAN_SEND(host, replica) ->
    if
    :: epoch == EPOCH(host) -> assert(data[replica] >= seen); acknowledge(data[replica])
    :: else
    fi
  }
}

/* Brings the other leg back: written over first, recorded then. */
inline rebuild(host, to) {
  atomic {
    (legs == BIT(1 - to)) && CAN_SEND(host, to) && CAN_SEND(host, 1 - to) && fenced[to] == EPOCH(host) &&
      under_way[AT(host, to)] == 0;
#ifndef EARLY_SYNC
    data[to] = data[1 - to];
#endif
  }
  change_in_sync(EPOCH(host), legs, BOTH, done);
  if
  :: done == 1 -> legs = BOTH
  :: done == 0 -> goto stopped
  fi;
#ifdef EARLY_SYNC
  atomic { CAN_SEND(host, to) && CAN_SEND(host, 1 - to) -> data[to] = data[1 - to] }
#endif
}

inline serve(host) {
  do
  :: next_write <= WRITES -> write(host)
  :: read_from(host, 0)
  :: read_from(host, 1)
  :: rebuild(host, 0)
  :: rebuild(host, 1)
  :: goto stopped  /* ends, or dies, here; in the midst of a write by never being scheduled again */
  od
}

proctype first_host() {
  byte legs = BOTH, value, failed, done;
  serve(0);
stopped:
  skip
}

/* Takes the volume over: epoch, fences (the agents' work), assembly from what is in sync and fenced. */
proctype second_host() {
  byte legs, value, failed, done, set;
  epoch = 2;
  do
  :: set = in_sync;
     if
     :: (set & BIT(0)) == 0 || fenced[0] == 2 ->
        if
        :: (set & BIT(1)) == 0 || fenced[1] == 2 -> break
        :: set == BOTH && fenced[1] != 2 -> change_in_sync(2, BOTH, BIT(0), done)  /* out of reach */
        fi
     :: set == BOTH && fenced[0] != 2 -> change_in_sync(2, BOTH, BIT(1), done)
     fi
  od;
#ifdef STALE_LEG
  atomic {
    legs = 0;
    if :: fenced[0] == 2 -> legs = legs | BIT(0) :: else fi;
    if :: fenced[1] == 2 -> legs = legs | BIT(1) :: else fi;
  }
#else
  legs = set;
#endif
#ifndef NO_RESYNC
  /* The former host may have ended between two legs: before the first read, one leg's content is the others'. */
  if
  :: legs == BOTH -> atomic { CAN_SEND(1, 0) && CAN_SEND(1, 1) ->
       if
       :: data[1] = data[0]
       :: data[0] = data[1]
       fi }
  :: else
  fi;
#endif
  serve(1);
stopped:
  skip
}

/* The one agent of a storage node: looks at the volume's row, then makes its export so. */
proctype agent(byte replica) {
  byte known = 1;
  do
  :: known == 1 -> known = epoch
  :: known == 2 ->
#ifdef TARGET_EPOCH
     target_epoch[replica] = 2;  /* before the old host is removed: a moment later it could come back in between */
#endif
#ifndef NO_FENCE
     admits[replica] = admits[replica] & ~BIT(0);
#ifndef NO_DRAIN
     under_way[AT(0, replica)] == 0;
#endif
#endif
     admits[replica] = admits[replica] | BIT(1);
     fenced[replica] = 2;
     break
  od
}

#ifdef TWO_AGENTS
/* One more, which was stopped for a while after it had looked. */
proctype stale_agent(byte replica) {
  byte known = epoch;
  atomic {
    if
#ifdef TARGET_EPOCH
    :: known == 1 && target_epoch[replica] == 1 -> admits[replica] = admits[replica] | BIT(0)
#else
    :: known == 1 -> admits[replica] = admits[replica] | BIT(0)
#endif
    :: else
    fi
  }
}
#endif

/* Disks: what was accepted gets there some time. A removed host's command whose connection is gone may be dropped. */
proctype disks() {
  do
  :: atomic { under_way[0] != 0 -> data[0] = under_way[0]; under_way[0] = 0 }
  :: atomic { under_way[1] != 0 -> data[1] = under_way[1]; under_way[1] = 0 }
  :: atomic { under_way[2] != 0 -> data[0] = under_way[2]; under_way[2] = 0 }
  :: atomic { under_way[3] != 0 -> data[1] = under_way[3]; under_way[3] = 0 }
  od
}

proctype links() {
  byte left = CUTS;
  do
  :: left > 0 -> left--;
     if
     :: cut[0] = !cut[0]
     :: cut[1] = !cut[1]
     :: cut[2] = !cut[2]
     :: cut[3] = !cut[3]
     fi
  :: break
  od
}

init {
  atomic {
    run disks();
    run links();
    run agent(0);
    run agent(1);
#ifdef TWO_AGENTS
    run stale_agent(0);
#endif
    run first_host();
    run second_host()
  }
}
