package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skiff/internal/need"
	images "skiff/testdata/image"
)

// TestPowerCut is case 82 of SECURITY.md: while a process pulls and removes
// images in a store on ext4, what is on the disk at some moment is copied and looked at
// as after a power cut, in another boot. Every layer is whole or was dropped, the next pull
// of an image makes the store clean, and the image runs. SKIFF_POWERCUTS is how
// often, instead of 5 times.
func TestPowerCut(t *testing.T) {
	need.Root(t)
	need.Tool(t, "unshare")
	need.Tool(t, "mkfs.ext4")
	need.That(t, "loop", attaches(t))
	c, s := newCrew(t), newShop(t)
	host, _, _ := strings.Cut(s.ref, "/")
	base := busyLayer(t)
	var last []string
	for i := range 3 {
		var many []images.Entry
		for j := range 200 {
			many = append(many, images.File(fmt.Sprintf("d/%d/%d", j%10, j), strings.Repeat(fmt.Sprint(i, j, "\n"), 1+j*j/4)))
		}
		own := images.L(images.File("own", fmt.Sprintln("own", i)))
		for _, name := range []string{"cut", "slow"} {
			put(t, fmt.Sprint(host, "/", name, i), inBin, []images.Layer{base, images.L(many...), own})
		}
		digest, err := own.V1().Digest()
		if err != nil {
			t.Fatal(err)
		}
		last = append(last, digest.String())
	}
	// The last layer of a slow image comes when the kernel has written the names of the
	// others by itself, once a second; their contents it has not.
	s.before = func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/slow") && slices.Contains(last, path.Base(r.URL.Path)) {
			time.Sleep(2500 * time.Millisecond)
		}
	}
	rounds := cmp.Or(os.Getenv("SKIFF_POWERCUTS"), "5")
	cmd := exec.Command("unshare", "-m", "sh", "-c", powerCut)
	cmd.Env = append(os.Environ(), "DIR="+t.TempDir(), "HOST="+host, "ROUNDS="+rounds, "SKIFF_NETWORK=none")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, abridged(string(out)))
	}
	// Most moments are within a pull; if none is, nothing was tried.
	cut := strings.Count(string(out), "in mid-pull\n")
	t.Logf("%s power cuts, %d with layers that were not synced, %d of which were dropped", rounds, cut, strings.Count(string(out), "dropped\n"))
	if n, _ := strconv.Atoi(rounds); n >= 5 && cut == 0 {
		t.Error("no layer was under way at any moment")
	}
	c.quiet("no such mark")
}

// attaches tries a loop device.
func attaches(t *testing.T) error {
	file := t.TempDir() + "/disk"
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<20)); err != nil {
		return err
	}
	out, err := exec.Command("losetup", "--show", "-f", file).CombinedOutput()
	device := strings.TrimSpace(string(out))
	if err != nil {
		return fmt.Errorf("losetup: %w: %s", err, device)
	}
	return exec.Command("losetup", "-d", device).Run()
}

// powerCut runs in a mount namespace of its own. A copy counts if a second one is
// equal to it: then nothing was written while it was made, and the disk was in that
// state. Another boot is another file over the kernel's boot id.
const powerCut = `
set -u
fail() { echo "round $round: $*"; cat $DIR/out; exit 1; }
cd $DIR
truncate -s 192M disk
mkfs.ext4 -q -J size=8 disk
mkdir store copy
mount -o loop,commit=1 disk store
export SKIFF_ROOT=$DIR/store/skiff
round=0
skiff pull -q $HOST/cut0 >out 2>&1 || fail first pull
work() {
	while [ -e disk ]; do
		for i in 1 2; do skiff pull -q $HOST/slow$i; skiff rmi $HOST/slow$i; skiff ps; done
	done >/dev/null 2>&1
}
work &
trap 'rm -f disk; wait' EXIT
while [ $((round += 1)) -le $ROUNDS ]; do
	sleep 0.$(od -An -N2 -tu2 /dev/urandom | tr -d ' ' | cut -c1-3)
	try=0
	cp --sparse=always disk one
	while cp --sparse=always disk two; ! cmp -s one two; do
		mv two one
		[ $((try += 1)) -lt 200 ] || fail the disk is never at rest
	done
	mount -o loop one copy 2>out || fail mount
	(
		export SKIFF_ROOT=$DIR/copy/skiff
		cat /proc/sys/kernel/random/uuid >boot
		mount --bind boot /proc/sys/kernel/random/boot_id
		before=$(ls $SKIFF_ROOT/layers | wc -l)
		[ -e $SKIFF_ROOT/unsynced ] && echo in mid-pull
		skiff fsck --json >out 2>&1
		status=$?
		[ $status -le 1 ] || fail fsck: status $status
		grep -q '"What": "layer"' out && fail a layer is damaged
		[ $(ls $SKIFF_ROOT/layers | wc -l) -eq $before ] || echo dropped
		for i in 0 1 2; do
			skiff pull -q $HOST/cut$i >out 2>&1 || fail pull
			skiff run --rm $HOST/cut$i cat /own >out 2>&1 || fail run
			grep -qx "own $i" out || fail run
		done
		skiff ps >out 2>&1
		skiff fsck >out 2>&1 || fail fsck after the pull
		[ -z "$(ls $SKIFF_ROOT/tmp | grep -v ^file-)" ] || fail left in tmp: $(ls $SKIFF_ROOT/tmp)
		umount /proc/sys/kernel/random/boot_id
	) || exit 1
	umount copy
done
`
