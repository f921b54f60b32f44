package holdfastd

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/policies"
	"holdfast/appliance/machine/volume"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/cli"
)

func volumeCommand(a *cli.Admin) *cobra.Command {
	var file, owner string
	open := &cobra.Command{
		Use:   "open --config FILE",
		Short: "Open the state volume, or make it on an empty disk",
		Long: "Open the encrypted disk of the appliance's state with the key that the TPM gives, and\n" +
			"mount it at state.dir; make it first if the disk is empty. Its identity is measured into\n" +
			"PCR 8 before it is mounted. What came of it is written to the file state.volume, and a key\n" +
			"for the sealed PIN beside it, in memory, for holdfastd serve. The image does this before it starts Holdfast;\n" +
			"nobody else needs to. It ends well also if the volume cannot be opened: holdfastd serve is\n" +
			"locked then, and says why.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := config.Load(file)
			if err != nil {
				return err
			}
			if cfg.State.Volume == "" {
				return fmt.Errorf("%s: state.volume is missing: the file that says what came of the state volume", file)
			}
			opened, err := openVolume(cmd.Context(), cfg, owner)
			clear(opened.PINKey)
			o := volume.OutcomeOf(opened, err)
			if o.Opened {
				if o.Device, err = volume.DeviceOf(cfg.State.Dir); err != nil {
					return err
				}
			}
			if err := a.Show(cmd, o, func(w io.Writer) { showOutcome(w, o) }); err != nil {
				return err
			}
			return o.Write(cfg.State.Volume)
		}),
	}
	open.Flags().StringVar(&file, "config", "", "configuration file (TOML)")
	open.Flags().StringVar(&owner, "owner", "holdfast", "user that holdfastd serve runs as")
	_ = open.MarkFlagRequired("config") // it exists: it was made above
	return cli.Group("volume", "Open the disk of the appliance's state", open)
}

func showOutcome(w io.Writer, o volume.Outcome) {
	if o.Opened {
		cli.Row(w, fmt.Sprintf("state volume: open, by the authorization %q; PCR %d has its identity %s", o.Authorization, tpm.StateVolumePCR, o.Identity))
		return
	}
	cli.Row(w, "state volume: not open: "+o.Code+": "+o.Reason)
}

// diskPatience is how long the disk for the state may take to appear.
const diskPatience = 20 * time.Second

func openVolume(ctx context.Context, cfg *config.Config, owner string) (volume.Opened, error) {
	u, err := user.Lookup(owner)
	if err != nil {
		return volume.Opened{}, fault.Wrapf(fault.VolumeOpen, err, "--owner")
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return volume.Opened{}, fault.Wrapf(fault.VolumeOpen, err, "--owner")
	}
	key, err := cli.ReadPublicKey[*ecdsa.PublicKey](cfg.Release.SealKey, cli.SealAlgorithm)
	if err != nil {
		return volume.Opened{}, fault.Wrapf(fault.SealFile, err, "release.seal_key cannot be used")
	}
	authorizations, err := policies.Authorizations(cfg.Release.Authorizations, cfg.Launch.Dir, key)
	if err != nil {
		return volume.Opened{}, fault.Wrapf(fault.SealFile, err, "release.authorizations cannot be used")
	}
	path := cfg.Attestation.TPM
	if path == "" {
		path = device.TPM
	}
	opened, err := device.OpenTPM(path)
	if err != nil {
		return volume.Opened{}, fault.Wrapf(fault.TPMFailed, err, "there is no TPM that could give the state volume's key; launch the machine with a TPM 2.0")
	}
	defer opened.Close()
	disk, err := volume.FindDisk(ctx, "/sys/block", diskPatience)
	if err != nil {
		return volume.Opened{}, err
	}
	o, err := volume.Open(ctx, volume.Options{Disk: disk, Mount: cfg.State.Dir, Owner: uid, TPM: opened, Key: key, Authorizations: authorizations})
	if err != nil {
		return o, err
	}
	if err := o.HandOver(cfg.State.Volume, uid); err != nil {
		return o, fault.Wrapf(fault.VolumeOpen, err, "the state volume is open, and its key for the PIN cannot be handed on")
	}
	return o, nil
}
