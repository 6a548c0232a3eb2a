from anytime_keras.commands import main

if __name__ == "__main__":
    main()
